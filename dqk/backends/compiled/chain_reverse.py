"""Generates the code that takes cotangents of environments back over a site, and adds those of both tensors."""

from __future__ import annotations

from dqk.backends.compiled.chain_code import Body, Complex, Precision, columns_of, loop, rows_of, uses
from dqk.backends.compiled.chain_terms import Step


def reverse_function(name: str, step: Step, precision: Precision, stride: int) -> str:
    """One site, for a panel of rows.

    With `t = sum e a` and `e' = sum t conj(b)`, and cotangents `g` of real and imaginary parts as complex numbers:
    `dt = sum g b`, `db = sum t conj(g)`, `de = sum dt conj(a)`, `da = sum conj(e) dt` (added over the lanes).

    Args:
        name: of the function: (environments before the site, cotangents of those after it, which become those of the former,
            the rows' panel, the columns' panel, their cotangents); panels at the site's numbers.
        step: the site.
        precision: of the numbers.
        stride: numbers between the environments of two rows.
    """
    b, lanes = Body(precision), precision.lanes
    b.places({"e": "%before", "g": "%cotangents"}, stride)
    b.places({"a": "%rows", "da": "%drows"}, 1)
    at = lambda base, k: (b.load(base, 2 * k * lanes), b.load(base, (2 * k + 1) * lanes))  # noqa: E731
    environment = [at("%e", k) for k in range(step.before)]
    cotangent = [at("%g", k) for k in range(step.after)]
    column, targets = columns_of(b, step), uses(step)
    d_rows: dict[int, Complex] = {}
    d_columns: dict[int, Complex] = {}
    d_environment: dict[int, Complex] = {}
    for k, pairs in enumerate(step.first):
        total: Complex | None = None
        for number, entry in pairs:
            a = rows_of(b, entry)
            total = b.product(environment[number], a, total) if step.before else a
        assert total is not None
        dt: Complex | None = None
        for target, entry, _ in targets[k]:
            g = cotangent[target]
            dt = b.product(g, column(entry), dt)
            d_columns[entry] = b.product(total, g, d_columns.get(entry), conjugate=True)
        assert dt is not None
        for number, entry in pairs:
            if step.before:
                d_environment[number] = b.product(dt, rows_of(b, entry), d_environment.get(number), conjugate=True)
                d_rows[entry] = b.product(dt, environment[number], d_rows.get(entry), conjugate=True)
            else:
                before = d_rows.get(entry)
                d_rows[entry] = (b.add(before[0], dt[0]), b.add(before[1], dt[1])) if before else dt
    for number, value in d_environment.items():
        for part in range(2):
            b.store("%g", (2 * number + part) * lanes, value[part])
    for entry, value in d_columns.items():
        for part in range(2):
            place = (2 * entry + part) * lanes
            b.store("%dcolumns", place, b.add(b.load("%dcolumns", place), value[part]))
    for entry, value in d_rows.items():
        for part in range(2):
            _add_lanes(b, (2 * entry + part) * lanes, value[part])
    head = (
        f"define internal void @{name}(ptr %before, ptr %cotangents, ptr %rows, ptr %columns, ptr %drows, "
        "ptr %dcolumns) noinline {"
    )
    return "\n".join([head, *loop("row", str(lanes), b.lines), "  ret void", "}"])


def _add_lanes(b: Body, place: int, value: str) -> None:
    """Adds all lanes of a vector to a number of the row's cotangents."""
    p = b.precision
    pointer = b.pointer("%da", place)
    zero = f"{p.scalar} -0.0"
    total = b.put(f"call reassoc {p.scalar} @llvm.vector.reduce.fadd.{p.suffix}({zero}, {p.vector} {value})")
    old = b.put(f"load {p.scalar}, ptr {pointer}, align {p.bytes}")
    b.do(f"store {p.scalar} {b.put(f'fadd {p.scalar} {old}, {total}')}, ptr {pointer}, align {p.bytes}")


def unscale_function(name: str, size: int, precision: Precision, stride: int) -> str:
    """Multiplies cotangents of a panel of rows by the factors that their environments were multiplied by."""
    b, lanes = Body(precision), precision.lanes
    b.places({"g": "%cotangents"}, stride)
    b.places({"f": "%factors"}, lanes)
    factor = b.load("%f", 0)
    for k in range(2 * size):
        b.store("%g", k * lanes, b.multiply(b.load("%g", k * lanes), factor))
    head = f"define internal void @{name}(ptr %cotangents, ptr %factors) noinline {{"
    return "\n".join([head, *loop("row", str(lanes), b.lines), "  ret void", "}"])
