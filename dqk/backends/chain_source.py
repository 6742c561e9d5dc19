"""Writes the source of the kernel that overlaps matrix-product states with their environments in registers. It imports no Triton.

One lane has one pair; the lanes of a program are a block of rows by columns, so that neighbours share what they load. Every number
of an environment is a name of its own. Each kind of site has a function, which loops over a run of such sites, since the time of
Triton's passes grows much faster than the length of a function. Between two runs, of which a chain has few, environments go through
memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from dqk.backends.compiled.chain_terms import Step

MOST_PRODUCTS = 160
"""Complex products in the function of one kind of site."""
MOST_NUMBERS = 16
"""Complex numbers in an environment: more do not fit into the registers of a thread."""
MOST_RUNS = 12
_SCALE_EVERY = 4  # sites
_FORMATS = {4: ("int32", "float32", 23, 127), 8: ("int64", "float64", 52, 1023)}
_GIVEN = "a, b, offsets, runs, space, values, exponents, n, m, a_stride, b_stride"
_BLOCK = "ROWS: tl.constexpr, COLUMNS: tl.constexpr"

Number = tuple[str, str]


def runs_of(steps: Sequence[Step]) -> list[tuple[Step, int, int]]:
    """Runs of equal sites: kind, first site, one past the last."""
    found, start = [], 0
    for step, group in groupby(steps):
        stop = start + len(list(group))
        found.append((step, start, stop))
        start = stop
    return found


def fits(steps: Sequence[Step]) -> bool:
    """Whether a circuit's kernel is short enough, and its environments small enough."""
    longest, largest = max(step.products for step in steps), max(step.after for step in steps)
    return longest <= MOST_PRODUCTS and largest <= MOST_NUMBERS and len(runs_of(steps)) <= MOST_RUNS


def overlap_source(steps: Sequence[Step], itemsize: int) -> str:
    """Source of `overlap(a, b, offsets, runs, space, values, exponents, n, m, a_stride, b_stride, ROWS, COLUMNS)`.

    It writes `|<b_j|a_i>|^2 = value 4**exponent`. Encodings are (V, N) and (V, M) with rows a stride apart; `offsets` has the first
    of each site's numbers, `runs` the first site of each run and then the number of sites. `space` has environments.

    Args:
        steps: the sites.
        itemsize: bytes of a real number.
    """
    source, runs = _Source(itemsize), runs_of(steps)
    kinds = list(dict.fromkeys(step for step, _, _ in runs))
    for number, step in enumerate(kinds):
        source.function(number, step)
    source.kernel([kinds.index(step) for step, _, _ in runs])
    return "\n".join(["import triton", "import triton.language as tl", "", "", *source.lines]) + "\n"


class _Source:
    """Lines of the kernel, and fresh names."""

    def __init__(self, itemsize: int):
        self.format = _FORMATS[itemsize]
        self.lines: list[str] = []
        self.depth = 1
        self._names = 0

    def add(self, line: str) -> None:
        self.lines.append("    " * self.depth + line)

    def let(self, value: str) -> str:
        self._names += 1
        self.add(f"v{self._names} = {value}")
        return f"v{self._names}"

    def kernel(self, order: Sequence[int]) -> None:
        """Calls the functions in order, then squares what is left."""
        self.lines += ['@triton.jit(do_not_specialize=["n", "m", "a_stride", "b_stride"])']
        self.lines += [f"def overlap({_GIVEN}, {_BLOCK}):"]
        for run, number in enumerate(order):
            self.add(f"kind_{number}({_GIVEN}, tl.load(runs + {run}), tl.load(runs + {run + 1}), ROWS, COLUMNS)")
            self.add("tl.debug_barrier()")  # everything is stored before the next run loads
        self.lanes()
        real, imaginary = self.kept(0)
        self.add(f"re = tl.load({real}, mask=here, other=0.0)")
        self.add(f"im = tl.load({imaginary}, mask=here, other=0.0)")
        self.add("tl.store(values + pair, re * re + im * im, mask=here)")

    def function(self, number: int, step: Step) -> None:
        """Moves environments over a run of sites of one kind."""
        names = [(f"e{k}_r", f"e{k}_i") for k in range(max(step.before, step.after))]
        self.lines += ["@triton.jit(noinline=True)", f"def kind_{number}({_GIVEN}, first, last, {_BLOCK}):"]
        self.lanes()
        self.add(f"zero = tl.full([ROWS * COLUMNS], 0.0, tl.{self.format[1]})")
        for k, name in enumerate(names):
            for part, place in zip(name, self.kept(k), strict=True):
                self.add(f"{part} = " + (f"tl.load({place}, mask=here, other=0.0)" if k < step.before else "zero"))
        if step.before:
            self.add("exponent = tl.load(exponents + pair, mask=here, other=0)")
        else:
            self.add("exponent = tl.full([ROWS * COLUMNS], 0, tl.int32)")
        self.add("for site in range(first, last):")
        self.depth = 2
        self.site(step, names)
        self.add(f"if site % {_SCALE_EVERY} == 0:")
        self.depth = 3
        self.scale(names[: step.after])
        self.depth = 1
        self.scale(names[: step.after])
        for k, name in enumerate(names[: step.after]):
            for part, place in zip(name, self.kept(k), strict=True):
                self.add(f"tl.store({place}, {part}, mask=here)")
        self.add("tl.store(exponents + pair, exponent, mask=here)")

    def lanes(self) -> None:
        """What each lane stands for."""
        self.add("lane = tl.arange(0, ROWS * COLUMNS)")
        self.add("row = (tl.program_id(0) * ROWS + lane // COLUMNS).to(tl.int64)")
        self.add("column = (tl.program_id(1) * COLUMNS + lane % COLUMNS).to(tl.int64)")
        self.add("here = (row < n) & (column < m)")
        self.add("pair = row * m + column")
        self.add("pairs = n.to(tl.int64) * m")

    def kept(self, k: int) -> Number:
        """Addresses of a number of the environment."""
        return f"space + ({2 * k} * pairs + pair)", f"space + ({2 * k + 1} * pairs + pair)"

    def load(self, pointer: str, which: str, entry: int) -> Number:
        """An entry of the site's tensor, of each lane's row or column."""
        real, imaginary = (
            self.let(
                f"tl.load({pointer} + ((at + {2 * entry + part}) * {pointer}_stride + {which}), mask=here, other=0.0)"
            )
            for part in range(2)
        )
        return real, imaginary

    def site(self, step: Step, names: list[Number]) -> None:
        """Moves `names` over a site; those that it does not make are zeros afterwards."""
        self.add("at = tl.load(offsets + site)")
        rows = [self.load("a", "row", entry) for entry in range(step.entries)]
        columns = [self.load("b", "column", entry) for entry in range(step.entries)]
        between = [self.intermediate(step, pairs, names, rows) for pairs in step.first]
        made = []
        for pairs in step.second:
            real, imaginary = [], []
            for k, entry in pairs:
                (tr, ti), (yr, yi) = between[k], columns[entry]
                real.append(f"{tr} * {yr} + {ti} * {yi}")
                imaginary.append(f"{ti} * {yr} - {tr} * {yi}")
            made.append((self.let(" + ".join(real)), self.let(" + ".join(imaginary))))
        for name, value in zip(names, made + [("zero", "zero")] * (len(names) - len(made)), strict=True):
            for part, number in zip(name, value, strict=True):
                self.add(f"{part} = {number}")

    def intermediate(
        self, step: Step, pairs: Sequence[tuple[int, int]], names: list[Number], rows: list[Number]
    ) -> Number:
        if not step.before:  # the environment is the number 1
            return rows[pairs[0][1]]
        real, imaginary = [], []
        for number, entry in pairs:
            (er, ei), (xr, xi) = names[number], rows[entry]
            real.append(f"{er} * {xr} - {ei} * {xi}")
            imaginary.append(f"{er} * {xi} + {ei} * {xr}")
        return self.let(" + ".join(real)), self.let(" + ".join(imaginary))

    def scale(self, names: list[Number]) -> None:
        """Multiplies an environment by a power of two, so that its largest number is near 1."""
        whole, real, mantissa, bias = self.format
        parts = [part for name in names for part in name]
        largest = self.let(f"tl.abs({parts[0]})")
        for part in parts[1:]:
            largest = self.let(f"tl.maximum({largest}, tl.abs({part}))")
        biased = self.let(f"{largest}.to(tl.{whole}, bitcast=True) >> {mantissa}")
        biased = self.let(f"tl.where({biased} == 0, {bias}, {biased})")  # zero, or too small to be worth it
        factor = self.let(f"(({2 * bias} - {biased}) << {mantissa}).to(tl.{real}, bitcast=True)")
        for part in parts:
            self.add(f"{part} = {part} * {factor}")
        self.add(f"exponent += ({biased} - {bias}).to(tl.int32)")
