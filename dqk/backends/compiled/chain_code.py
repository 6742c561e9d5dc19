"""Generates the code of overlaps of matrix-product states: straight-line vector arithmetic for each kind of site.

Lanes are columns; the rows of a panel share what is loaded of them. Numbers of an environment stay in registers within a site.
After every few sites an environment is multiplied by a power of two, lane by lane, so that its largest number is near 1: it
changes no digit, and a thousand qubits do not underflow. The text is LLVM's assembly language, see `native`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dqk.backends.compiled import VECTOR_BYTES
from dqk.backends.compiled.chain_terms import Step

Complex = tuple[str, str]


@dataclass(frozen=True)
class Precision:
    """Names of types in LLVM's assembly language.

    Attributes:
        bytes: 4 or 8.
    """

    bytes: int

    @property
    def lanes(self) -> int:
        """Numbers in a vector."""
        return VECTOR_BYTES // self.bytes

    @property
    def scalar(self) -> str:
        """One number."""
        return "double" if self.bytes == 8 else "float"

    @property
    def vector(self) -> str:
        """A vector of numbers."""
        return f"<{self.lanes} x {self.scalar}>"

    @property
    def bits(self) -> str:
        """A vector of whole numbers of the same size."""
        return f"<{self.lanes} x i{8 * self.bytes}>"

    @property
    def suffix(self) -> str:
        """In names of intrinsics."""
        return f"v{self.lanes}f{8 * self.bytes}"

    @property
    def mantissa(self) -> int:
        """Bits below the exponent."""
        return 52 if self.bytes == 8 else 23

    @property
    def bias(self) -> int:
        """The exponent of 1."""
        return 1023 if self.bytes == 8 else 127


@dataclass
class Body:
    """Lines of a function and fresh names."""

    precision: Precision
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def put(self, line: str) -> str:
        """A line that gives a value; its name."""
        self.count += 1
        self.lines.append(f"  %t{self.count} = {line}")
        return f"%t{self.count}"

    def do(self, line: str) -> None:
        """A line that gives none."""
        self.lines.append("  " + line)

    def places(self, bases: dict[str, str], stride: int) -> None:
        """Addresses of what belongs to %row, `stride` numbers apart."""
        offset = self.put(f"mul i64 %row, {stride}")
        for name, base in bases.items():
            self.lines.append(f"  %{name} = getelementptr {self.precision.scalar}, ptr {base}, i64 {offset}")

    def pointer(self, base: str, index: int | str) -> str:
        """Address of an element."""
        return self.put(f"getelementptr {self.precision.scalar}, ptr {base}, i64 {index}")

    def load(self, base: str, at: int) -> str:
        """The vector at an element."""
        p = self.precision
        return self.put(f"load {p.vector}, ptr {self.pointer(base, at)}, align {p.bytes}")

    def store(self, base: str, at: int, value: str) -> None:
        """Writes a vector."""
        p = self.precision
        self.do(f"store {p.vector} {value}, ptr {self.pointer(base, at)}, align {p.bytes}")

    def splat(self, base: str, at: int) -> str:
        """A vector whose lanes all equal an element."""
        p = self.precision
        one = self.put(f"load {p.scalar}, ptr {self.pointer(base, at)}, align {p.bytes}")
        first = self.put(f"insertelement {p.vector} poison, {p.scalar} {one}, i64 0")
        return self.put(f"shufflevector {p.vector} {first}, {p.vector} poison, <{p.lanes} x i32> zeroinitializer")

    def negative(self, value: str) -> str:
        """Minus a vector."""
        return self.put(f"fneg {self.precision.vector} {value}")

    def multiply(self, a: str, b: str) -> str:
        """A product of vectors."""
        return self.put(f"fmul {self.precision.vector} {a}, {b}")

    def add(self, a: str, b: str) -> str:
        """A sum of vectors."""
        return self.put(f"fadd {self.precision.vector} {a}, {b}")

    def fused(self, a: str, b: str, c: str | None) -> str:
        """A b + c, in one instruction where there is one; a b without c."""
        if c is None:
            return self.multiply(a, b)
        v = self.precision.vector
        return self.put(f"call {v} @llvm.fmuladd.{self.precision.suffix}({v} {a}, {v} {b}, {v} {c})")

    def product(self, a: Complex, b: Complex, total: Complex | None, conjugate: bool = False) -> Complex:
        """A b, or a times the conjugate of b, added to a total."""
        re, im = total if total else (None, None)
        b_im = self.negative(b[1]) if conjugate else b[1]
        re = self.fused(a[0], b[0], re)
        re = self.fused(self.negative(a[1]), b_im, re)
        im = self.fused(a[1], b[0], im)
        return re, self.fused(a[0], b_im, im)


def loop(name: str, count: str, body: Iterator[str] | list[str]) -> list[str]:
    """Lines that run `body` with %`name` from 0 to before `count`; what follows is in the block `name`.end."""
    return [
        f"  br label %{name}.start",
        f"{name}.start:",
        f"  br label %{name}.test",
        f"{name}.test:",
        f"  %{name} = phi i64 [0, %{name}.start], [%{name}.next, %{name}.more]",
        f"  %{name}.inside = icmp slt i64 %{name}, {count}",
        f"  br i1 %{name}.inside, label %{name}.body, label %{name}.end",
        f"{name}.body:",
        *body,
        f"  br label %{name}.more",
        f"{name}.more:",
        f"  %{name}.next = add i64 %{name}, 1",
        f"  br label %{name}.test",
        f"{name}.end:",
    ]


def site_function(name: str, step: Step, precision: Precision, stride: int) -> str:
    """Moves the environments of a panel of rows over one site.

    Args:
        name: of the function: (environments before, after, the rows' panel, the columns'), panels at the site's numbers. Both
            environments may be the same memory.
        step: the site.
        precision: of the numbers.
        stride: numbers between the environments of two rows.
    """
    b, lanes = Body(precision), precision.lanes
    b.places({"e": "%before", "n": "%after"}, stride)
    b.places({"a": "%rows"}, 1)
    environment = [(b.load("%e", 2 * k * lanes), b.load("%e", (2 * k + 1) * lanes)) for k in range(step.before)]
    b_of, value, left = columns_of(b, step), intermediate(b, step, environment), uses(step)
    sums: dict[int, Complex] = {}
    for k, targets in enumerate(left):
        t = value(k)
        for target, entry, is_last in targets:
            sums[target] = b.product(t, b_of(entry), sums.get(target), conjugate=True)
            if is_last:
                re, im = sums.pop(target)
                b.store("%n", 2 * target * lanes, re)
                b.store("%n", (2 * target + 1) * lanes, im)
    head = f"define internal void @{name}(ptr %before, ptr %after, ptr %rows, ptr %columns) noinline {{"
    return "\n".join([head, *loop("row", str(lanes), b.lines), "  ret void", "}"])


def columns_of(b: Body, step: Step):  # type: ignore[no-untyped-def]
    """A function that loads an entry of the columns' tensor."""
    lanes = b.precision.lanes
    return lambda entry: (b.load("%columns", 2 * entry * lanes), b.load("%columns", (2 * entry + 1) * lanes))


def rows_of(b: Body, entry: int) -> Complex:
    """An entry of the row's tensor in all lanes."""
    lanes = b.precision.lanes
    return b.splat("%a", 2 * entry * lanes), b.splat("%a", (2 * entry + 1) * lanes)


def intermediate(b: Body, step: Step, environment: list[Complex]):  # type: ignore[no-untyped-def]
    """A function that computes an intermediate value."""

    def value(k: int) -> Complex:
        total: Complex | None = None
        for number, entry in step.first[k]:
            a = rows_of(b, entry)
            total = a if not step.before else b.product(environment[number], a, total)
        assert total is not None
        return total

    return value


def uses(step: Step) -> list[list[tuple[int, int, bool]]]:
    """For each intermediate value: the numbers on the right that need it, with which entry, and whether nothing follows."""
    found: list[list[tuple[int, int, bool]]] = [[] for _ in step.first]
    for target, pairs in enumerate(step.second):
        last = max(k for k, _ in pairs)
        for k, entry in pairs:
            found[k].append((target, entry, k == last))
    return found


def scale_function(name: str, size: int, precision: Precision, stride: int) -> str:
    """Multiplies each lane of the environments of a panel of rows by a power of two, and adds its exponent to the lane's sum.

    The factors are written, too.
    """
    p, b = precision, Body(precision)
    lanes = p.lanes
    b.places({"e": "%environments"}, stride)
    b.places({"x": "%powers", "f": "%factors"}, lanes)
    values = [b.load("%e", k * lanes) for k in range(2 * size)]
    largest = ""
    for value in values:
        modulus = b.put(f"call {p.vector} @llvm.fabs.{p.suffix}({p.vector} {value})")
        if largest:
            larger = b.put(f"fcmp ogt {p.vector} {modulus}, {largest}")
            modulus = b.put(f"select <{lanes} x i1> {larger}, {p.vector} {modulus}, {p.vector} {largest}")
        largest = modulus
    whole = lambda n: "<" + ", ".join([f"i{8 * p.bytes} {n}"] * lanes) + ">"  # noqa: E731
    exponent = b.put(f"lshr {p.bits} {b.put(f'bitcast {p.vector} {largest} to {p.bits}')}, {whole(p.mantissa)}")
    none = b.put(f"icmp eq {p.bits} {exponent}, zeroinitializer")  # zero, or too small to be worth it
    exponent = b.put(f"select <{lanes} x i1> {none}, {p.bits} {whole(p.bias)}, {p.bits} {exponent}")
    power = b.put(f"shl {p.bits} {b.put(f'sub {p.bits} {whole(2 * p.bias)}, {exponent}')}, {whole(p.mantissa)}")
    factor = b.put(f"bitcast {p.bits} {power} to {p.vector}")
    for k, value in enumerate(values):
        b.store("%e", k * lanes, b.multiply(value, factor))
    b.store("%f", 0, factor)
    change = b.put(f"sub {p.bits} {exponent}, {whole(p.bias)}")
    old = b.put(f"load {p.bits}, ptr %x, align {p.bytes}")
    b.do(f"store {p.bits} {b.put(f'add {p.bits} {old}, {change}')}, ptr %x, align {p.bytes}")
    head = f"define internal void @{name}(ptr noalias %environments, ptr noalias %powers, ptr noalias %factors) noinline {{"
    return "\n".join([head, *loop("row", str(lanes), b.lines), "  ret void", "}"])
