"""The modules of generated code: loops over panels and sites around the functions of each kind of site."""

from __future__ import annotations

from dqk.backends.compiled.chain_code import Precision, loop, scale_function, site_function
from dqk.backends.compiled.chain_reverse import reverse_function, unscale_function
from dqk.backends.compiled.chain_terms import Step


class Code:
    """Writes the modules of a circuit.

    Args:
        precision: of its numbers.
        steps: one for each site.
    """

    def __init__(self, precision: Precision, steps: list[Step]):
        self.precision = precision
        self.kinds = list(dict.fromkeys(steps))
        self.sizes = sorted({step.after for step in self.kinds})
        self.stride = 2 * max(max(step.before, step.after) for step in self.kinds) * precision.lanes

    def overlap(self) -> str:
        """A function `overlap(rows, columns, environments, table, values, exponents, powers, factors, sites, row panels, column
        panels, numbers in a panel, symmetric)`; a panel of columns stays in the cache while the rows pass by.
        """  # noqa: D205
        p = self.precision
        body = [*self._site("%table"), *self._switch("kind", "site", len(self.kinds), "%e, ptr %e, ptr %a, ptr %b")]
        body += self._switch("scale", "scale", len(self.sizes), "%e, ptr %powers, ptr %factors")
        v = p.vector
        write = [
            *self._address("we", "%e", "%w", self.stride),
            f"  %wi = getelementptr {p.scalar}, ptr %we, i64 {p.lanes}",
            f"  %re = load {v}, ptr %we, align {p.bytes}",
            f"  %im = load {v}, ptr %wi, align {p.bytes}",
            f"  %rr = fmul {v} %re, %re",
            f"  %kk = call {v} @llvm.fmuladd.{p.suffix}({v} %im, {v} %im, {v} %rr)",
            "  %wa = mul i64 %w, %width",
            f"  %wv = getelementptr {p.scalar}, ptr %v, i64 %wa",
            f"  store {v} %kk, ptr %wv, align {p.bytes}",
            *self._address("wp", "%powers", "%w", p.lanes),
            f"  %px = load {p.bits}, ptr %wp, align {p.bytes}",
            f"  %wx = getelementptr {p.scalar}, ptr %x, i64 %wa",
            f"  store {p.bits} %px, ptr %wx, align {p.bytes}",
        ]
        pair = [*self._clear(), *loop("site", "%sites", body), *loop("w", str(p.lanes), write)]
        head = (
            "define internal void @pair(ptr %ra, ptr %ca, ptr %e, ptr %table, ptr %v, ptr %x, ptr %powers, ptr %factors, "
            "i64 %sites, i64 %width) noinline {"
        )
        call = [*self._tile("v", "%values"), *self._tile("x", "%exponents")]
        call += [
            "  call void @pair(ptr %rp, ptr %cp, ptr %environments, ptr %table, ptr %v, ptr %x, ptr %powers, ptr %factors, "
            "i64 %sites, i64 %width)"
        ]
        limit = [
            "  %up = add i64 %c, 1",
            "  %below = icmp slt i64 %up, %row_panels",
            "  %most = select i1 %below, i64 %up, i64 %row_panels",
            "  %whole = icmp eq i64 %symmetric, 0",
            "  %limit = select i1 %whole, i64 %row_panels, i64 %most",
        ]
        define = (
            "define void @overlap(ptr %rows, ptr %columns, ptr %environments, ptr %table, ptr %values, ptr %exponents, "
            "ptr %powers, ptr %factors, i64 %sites, i64 %row_panels, i64 %column_panels, i64 %panel, i64 %symmetric) {"
        )
        main = [define, *self._panels(limit, "%limit", call), "  ret void", "}"]
        return "\n".join([*self._parts(), head, *pair, "  ret void", "}", *main])

    def overlap_vjp(self) -> str:
        """A function `overlap_vjp(rows, columns, their cotangents, trace, cotangents of environments, table, weights, powers,
        factors, sites, row panels, column panels, numbers in a panel)`. The environments of all sites are kept, then the
        cotangent goes back over them.
        """  # noqa: D205
        p, size = self.precision, self.precision.lanes * self.stride
        forth = [*self._site("%table"), "  %next = add i64 %site, 1"]
        forth += [*self._address("e", "%trace", "%site", size), *self._address("n", "%trace", "%next", size)]
        forth += self._address("f", "%factors", "%site", p.lanes**2)
        forth += self._switch("kind", "site", len(self.kinds), "%e, ptr %n, ptr %a, ptr %b")
        forth += self._switch("scale", "scale", len(self.sizes), "%n, ptr %powers, ptr %f")
        back = ["  %rest = sub i64 %sites, 1", "  %site = sub i64 %rest, %done", *self._site("%table")]
        back += [*self._address("e", "%trace", "%site", size), *self._address("f", "%factors", "%site", p.lanes**2)]
        back += [f"  %{n} = getelementptr {p.scalar}, ptr %{n}a, i64 %offset" for n in ("dr", "dc")]
        back += self._switch("scale", "unscale", len(self.sizes), "%g, ptr %f")
        back += self._switch("kind", "reverse", len(self.kinds), "%e, ptr %g, ptr %a, ptr %b, ptr %dr, ptr %dc")
        start = [
            *self._address("se", "%last", "%w", self.stride),
            *self._address("sg", "%g", "%w", self.stride),
            f"  %si = getelementptr {p.scalar}, ptr %se, i64 {p.lanes}",
            f"  %sj = getelementptr {p.scalar}, ptr %sg, i64 {p.lanes}",
            "  %wa = mul i64 %w, %width",
            f"  %ww = getelementptr {p.scalar}, ptr %v, i64 %wa",
            *[
                f"  %s{n} = load {p.vector}, ptr %{at}, align {p.bytes}"
                for n, at in (("x", "se"), ("y", "si"), ("w", "ww"))
            ],
            f"  %gx = fmul {p.vector} %sx, %sw",
            f"  %gy = fmul {p.vector} %sy, %sw",
            f"  store {p.vector} %gx, ptr %sg, align {p.bytes}",
            f"  store {p.vector} %gy, ptr %sj, align {p.bytes}",
        ]
        head = (
            "define internal void @forth(ptr %ra, ptr %ca, ptr %trace, ptr %table, ptr %powers, ptr %factors, i64 %sites) "
            "noinline {"
        )
        text = [*self._parts(), *self._reverse_parts(), head, *self._clear(), *loop("site", "%sites", forth)]
        head = (
            "define internal void @back(ptr %ra, ptr %ca, ptr %dra, ptr %dca, ptr %trace, ptr %g, ptr %table, ptr %v, "
            "ptr %factors, i64 %sites, i64 %width) noinline {"
        )
        last = self._address("last", "%trace", "%sites", size)
        text += ["  ret void", "}", head, *last, *loop("w", str(p.lanes), start), *loop("done", "%sites", back)]
        call = [
            *self._tile("v", "%weights"),
            f"  %drp = getelementptr {p.scalar}, ptr %drows, i64 %rn",
            f"  %dcp = getelementptr {p.scalar}, ptr %dcolumns, i64 %cn",
            "  call void @forth(ptr %rp, ptr %cp, ptr %trace, ptr %table, ptr %powers, ptr %factors, i64 %sites)",
            "  call void @back(ptr %rp, ptr %cp, ptr %drp, ptr %dcp, ptr %trace, ptr %g, ptr %table, ptr %v, ptr %factors, "
            "i64 %sites, i64 %width)",
        ]
        define = (
            "define void @overlap_vjp(ptr %rows, ptr %columns, ptr %drows, ptr %dcolumns, ptr %trace, ptr %g, ptr %table, "
            "ptr %weights, ptr %powers, ptr %factors, i64 %sites, i64 %row_panels, i64 %column_panels, i64 %panel) {"
        )
        main = [define, *self._panels([], "%row_panels", call), "  ret void", "}"]
        return "\n".join([*text, "  ret void", "}", *main])

    def _parts(self) -> list[str]:
        p = self.precision
        text = [
            f"declare {p.vector} @llvm.fmuladd.{p.suffix}({p.vector}, {p.vector}, {p.vector})",
            f"declare {p.vector} @llvm.fabs.{p.suffix}({p.vector})",
        ]
        text += [site_function(f"site{k}", step, p, self.stride) for k, step in enumerate(self.kinds)]
        return text + [scale_function(f"scale{k}", size, p, self.stride) for k, size in enumerate(self.sizes)]

    def _reverse_parts(self) -> list[str]:
        p = self.precision
        text = [f"declare {p.scalar} @llvm.vector.reduce.fadd.{p.suffix}({p.scalar}, {p.vector})"]
        text += [reverse_function(f"reverse{k}", step, p, self.stride) for k, step in enumerate(self.kinds)]
        return text + [unscale_function(f"unscale{k}", size, p, self.stride) for k, size in enumerate(self.sizes)]

    def _address(self, name: str, base: str, index: str, stride: int) -> list[str]:
        p = self.precision
        return [
            f"  %{name}.o = mul i64 {index}, {stride}",
            f"  %{name} = getelementptr {p.scalar}, ptr {base}, i64 %{name}.o",
        ]

    def _site(self, table: str) -> list[str]:
        """What the table says of %site, and its numbers in both panels."""
        lines = [f"  %at = getelementptr [3 x i64], ptr {table}, i64 %site", "  %kind = load i64, ptr %at"]
        for k, name in ((1, "offset"), (2, "scale")):
            lines += [f"  %at{k} = getelementptr i64, ptr %at, i64 {k}", f"  %{name} = load i64, ptr %at{k}"]
        scalar = self.precision.scalar
        return lines + [f"  %{n} = getelementptr {scalar}, ptr %{m}a, i64 %offset" for n, m in (("a", "r"), ("b", "c"))]

    def _switch(self, value: str, function: str, count: int, arguments: str) -> list[str]:
        """Calls one of several functions, or none for other values."""
        lines = [f"  switch i64 %{value}, label %{value}.done ["]
        lines += [f"    i64 {k}, label %{value}.{k}" for k in range(count)] + ["  ]"]
        for k in range(count):
            lines += [f"{value}.{k}:", f"  call void @{function}{k}(ptr {arguments})", f"  br label %{value}.done"]
        return [*lines, f"{value}.done:"]

    def _clear(self) -> list[str]:
        p = self.precision
        body = [
            *self._address("p", "%powers", "%z", p.lanes),
            f"  store {p.bits} zeroinitializer, ptr %p, align {p.bytes}",
        ]
        return loop("z", str(p.lanes), body)

    def _tile(self, name: str, base: str) -> list[str]:
        """Where a pair of panels lies in a matrix."""
        p = self.precision
        return [
            f"  %{name}.r = mul i64 %r, %high",
            f"  %{name}.c = mul i64 %c, {p.lanes}",
            f"  %{name}.a = add i64 %{name}.r, %{name}.c",
            f"  %{name} = getelementptr {p.scalar}, ptr {base}, i64 %{name}.a",
        ]

    def _panels(self, limit: list[str], rows: str, inside: list[str]) -> list[str]:
        scalar, lanes = self.precision.scalar, self.precision.lanes
        row = ["  %rn = mul i64 %r, %panel", f"  %rp = getelementptr {scalar}, ptr %rows, i64 %rn", *inside]
        column = ["  %cn = mul i64 %c, %panel", f"  %cp = getelementptr {scalar}, ptr %columns, i64 %cn", *limit]
        sizes = [f"  %width = mul i64 %column_panels, {lanes}", f"  %high = mul i64 %width, {lanes}"]
        return [*sizes, *loop("c", "%column_panels", [*column, *loop("r", rows, row)])]
