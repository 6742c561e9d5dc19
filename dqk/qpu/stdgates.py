"""What OpenQASM's gate libraries have beside the gates of `dqk.circuit`, and what of the language is left out."""

INCLUDES = ("stdgates.inc", "qelib1.inc")

UNSUPPORTED = {
    *("if", "else", "for", "while", "switch", "def", "defcal", "cal", "extern", "return", "end", "box", "delay", "let"),
    *("reset", "ctrl", "negctrl", "inv", "pow", "const", "int", "uint", "float", "angle", "bool", "array", "output"),
    *("complex", "duration", "stretch", "opaque", "pragma", "nop"),
}

# The gates of stdgates.inc and qelib1.inc that are not ours, up to a global phase.
LIBRARY = """
gate id a { }
gate y a { ry(pi) a; }
gate z a { p(pi) a; }
gate s a { p(pi/2) a; }
gate sdg a { p(-pi/2) a; }
gate t a { p(pi/4) a; }
gate tdg a { p(-pi/4) a; }
gate sx a { rx(pi/2) a; }
gate sxdg a { rx(-pi/2) a; }
gate U(theta, phi, lam) a { rz(lam) a; ry(theta) a; rz(phi) a; }
gate u(theta, phi, lam) a { U(theta, phi, lam) a; }
gate u3(theta, phi, lam) a { U(theta, phi, lam) a; }
gate u2(phi, lam) a { U(pi/2, phi, lam) a; }
gate u1(lam) a { p(lam) a; }
gate phase(lam) a { p(lam) a; }
gate CX a, b { cx a, b; }
gate cy a, b { sdg b; cx a, b; s b; }
gate ch a, b { ry(-pi/4) b; cz a, b; ry(pi/4) b; }
gate cphase(lam) a, b { cp(lam) a, b; }
gate cu1(lam) a, b { cp(lam) a, b; }
gate cu3(theta, phi, lam) a, b {
  p((lam + phi)/2) a; p((lam - phi)/2) b;
  cx a, b; U(-theta/2, 0, -(phi + lam)/2) b; cx a, b; U(theta/2, phi, 0) b;
}
gate cu(theta, phi, lam, gamma) a, b { p(gamma) a; cu3(theta, phi, lam) a, b; }
gate ccx a, b, c {
  h c; cx b, c; tdg c; cx a, c; t c; cx b, c; tdg c; cx a, c; t b; t c; h c; cx a, b; t a; tdg b; cx a, b;
}
gate cswap a, b, c { cx c, b; ccx a, b, c; cx c, b; }
"""
