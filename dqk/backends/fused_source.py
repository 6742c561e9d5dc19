"""Writes the source of the kernels that prepare states, and sweep back through them, in registers. It imports no Triton.

One lane holds 2**k amplitudes of one sample, k local wires; T lanes make a program, 2**(n - k) of them for each of its samples.
Every amplitude is a name of its own: `a3_r` and so on, never assigned twice.
"""

from __future__ import annotations

from dqk.backends.batching import Diagonal, Matrices, Plan, stride_of
from dqk.backends.fused_rounds import Feature, Round, coefficients, destinations, rounds_of

LANES = 128
Number = tuple[str, str]
"""Names of a real and an imaginary part."""

POINTERS = {(1, True): "m1d", (1, False): "m1s", (2, True): "m2d", (2, False): "m2s"}


class _Source:
    """Lines of a kernel, and fresh names."""

    def __init__(self, plan: Plan, itemsize: int, most_local: int):
        self.plan, self.circuit, self.n = plan, plan.circuit, plan.circuit.n_qubits
        self.k = min(most_local, self.n)
        self.stride = stride_of(self.n, 2 * itemsize)
        self.features, _ = coefficients(plan)
        self.width = sum(map(len, self.features.values()))
        self.rest = 2 ** (self.n - self.k)
        self.lanes = max(LANES, self.rest)
        self.lines: list[str] = []
        self._names = 0

    def add(self, line: str) -> None:
        self.lines.append("    " + line)

    def let(self, value: str) -> str:
        self._names += 1
        self.add(f"v{self._names} = {value}")
        return f"v{self._names}"

    def begin(self, name: str, pointers: list[str]) -> None:
        """A function of its own for each round: the passes of Triton's compiler take the square of a function's length."""
        self.lines += ["@triton.jit(noinline=True)", f"def {name}({', '.join(pointers)}, count):"]
        self.add(f"lane = tl.arange(0, {self.lanes})")
        self.add(f"sample = tl.program_id(0).to(tl.int64) * {self.lanes // self.rest} + lane // {self.rest}")
        self.add(f"rest = lane % {self.rest}")
        self.add("here = sample < count")
        self.add(f"state = sample * {2 * self.stride}")

    def kernel(self, name: str, pointers: list[str], rounds: list[str]) -> str:
        """The whole source: the rounds, and the kernel that calls them in order."""
        head = ["import triton", "import triton.language as tl", "", ""]
        given = ", ".join([*pointers, "count"])
        self.lines += ['@triton.jit(do_not_specialize=["count"])', f"def {name}({given}):"]
        for called in rounds:
            self.add(f"{called}({given})")
            self.add("tl.debug_barrier()")  # everything is stored before the next round loads
        return "\n".join([*head, *self.lines]) + "\n"

    # What a lane and a register stand for

    def far(self, local: tuple[int, ...]) -> list[int]:
        """Wires that are not local; the last one is the lowest bit of a lane's number."""
        return [wire for wire in range(self.n) if wire not in local]

    def lane_bit(self, local: tuple[int, ...], wire: int) -> str:
        far = self.far(local)
        return f"((rest >> {len(far) - 1 - far.index(wire)}) & 1)"

    def register_bit(self, local: tuple[int, ...], register: int, wire: int) -> int:
        return register >> (self.k - 1 - local.index(wire)) & 1

    def addresses(self, work: Round, moved: bool) -> list[str]:
        """Of the real part of each register's amplitude; where the round's permutations put it if `moved`."""
        map_ = destinations(work.moves if moved else [], self.circuit)
        terms = [f"({self.lane_bit(work.local, wire)} * {map_.columns[wire]})" for wire in self.far(work.local)]
        lane = self.let(" ^ ".join([str(map_.offset), *terms]) if terms else f"lane * 0 + {map_.offset}")
        found = []
        for register in range(2**self.k):
            image = 0
            for wire in work.local:
                image ^= map_.columns[wire] * self.register_bit(work.local, register, wire)
            found.append(f"state + ({lane} ^ {image}) * 2")
        return found

    def load(self, pointer: str, addresses: list[str]) -> list[Number]:
        return [
            (
                self.let(f"tl.load({pointer} + ({where}), mask=here, other=0.0)"),
                self.let(f"tl.load({pointer} + ({where} + 1), mask=here, other=0.0)"),
            )
            for where in addresses
        ]

    def store(self, pointer: str, addresses: list[str], values: list[Number]) -> None:
        for where, (real, imaginary) in zip(addresses, values, strict=True):
            self.add(f"tl.store({pointer} + ({where}), {real}, mask=here)")
            self.add(f"tl.store({pointer} + ({where} + 1), {imaginary}, mask=here)")

    # Steps

    def matrix(self, step: Matrices) -> list[list[Number]]:
        """Loads the matrix of each lane's sample."""
        side, pointer = 2 ** len(step.wires), POINTERS[step.group]
        size = 2 * side * side
        base = self.let(f"(count * {step.index} + sample) * {size}" if step.data else f"{step.index * size}")
        mask = ", mask=here, other=0.0" if step.data else ""
        load = lambda at: self.let(f"tl.load({pointer} + ({base} + {at}){mask})")  # noqa: E731
        return [[(load(2 * (a * side + b)), load(2 * (a * side + b) + 1)) for b in range(side)] for a in range(side)]

    def groups(self, local: tuple[int, ...], wires: tuple[int, ...]) -> list[list[int]]:
        """Registers that differ on some wires only, in the order of a matrix on these wires."""
        places = [self.k - 1 - local.index(wire) for wire in wires]
        inside = [
            sum((a >> (len(wires) - 1 - j) & 1) << p for j, p in enumerate(places)) for a in range(2 ** len(wires))
        ]
        mask = sum(1 << place for place in places)
        return [[base | part for part in inside] for base in range(2**self.k) if not base & mask]

    def apply(
        self, work: Round, step: Matrices, matrix: list[list[Number]], values: list[Number], adjoint: bool = False
    ) -> list[Number]:
        side, found = len(matrix), list(values)
        for group in self.groups(work.local, step.wires):
            for a in range(side):
                real, imaginary = [], []
                for b in range(side):
                    (mr, mi), (vr, vi) = matrix[b][a] if adjoint else matrix[a][b], values[group[b]]
                    minus, plus = ("+", "-") if adjoint else ("-", "+")
                    real.append(f"{mr} * {vr} {minus} {mi} * {vi}")
                    imaginary.append(f"{mr} * {vi} {plus} {mi} * {vr}")
                found[group[a]] = self.let(" + ".join(real)), self.let(" + ".join(imaginary))
        return found

    def place(self, step: Diagonal) -> dict[Feature, int]:
        return next(self.features[k] for k, other in enumerate(self.plan.steps) if other is step)

    def feature(self, local: tuple[int, ...], feature: Feature) -> tuple[frozenset[int], str]:
        """The local wires of a feature, and the product of its other bits."""
        far = [self.lane_bit(local, wire) for wire in feature if wire not in local]
        return frozenset(wire for wire in feature if wire in local), " * ".join(far)

    def phases(self, work: Round, step: Diagonal) -> list[Number]:
        """Cosine and sine of each register's phase `sum_f coefficient_f f`."""
        parts: dict[frozenset[int], list[str]] = {}
        for feature, column in self.place(step).items():
            value = self.let(f"tl.load(coefficient + (sample * {self.width} + {column}), mask=here, other=0.0)")
            inside, outside = self.feature(work.local, feature)
            parts.setdefault(inside, []).append(f"{value} * {outside}" if outside else value)
        sums = {inside: self.let(" + ".join(terms)) for inside, terms in parts.items()}
        found = []
        for register in range(2**self.k):
            ones = {wire for wire in work.local if self.register_bit(work.local, register, wire)}
            terms = [name for inside, name in sums.items() if inside <= ones]
            phase = self.let(" + ".join(terms)) if terms else ""
            found.append((self.let(f"tl.cos({phase})"), self.let(f"tl.sin({phase})")) if phase else ("", ""))
        return found

    def turn(self, phases: list[Number], values: list[Number], forwards: bool) -> list[Number]:
        """Times `exp(-i phase)`, or `exp(i phase)` backwards."""
        plus, minus = ("+", "-") if forwards else ("-", "+")
        found = []
        for (cosine, sine), (real, imaginary) in zip(phases, values, strict=True):
            turned = f"{cosine} * {real} {plus} {sine} * {imaginary}", f"{cosine} * {imaginary} {minus} {sine} * {real}"
            found.append((self.let(turned[0]), self.let(turned[1])) if cosine else (real, imaginary))
        return found

    def product(self, work: Round) -> list[Number]:
        """The registers of the product state that a run starts with."""
        zero = self.let(f"tl.full([{self.lanes}], 0.0, out.dtype.element_ty)")
        values: list[Number] = [(self.let(f"{zero} + 1.0"), zero)]
        for wire in self.far(work.local):
            bit, first, second = self.lane_bit(work.local, wire), *self.column(wire, zero)
            chosen = [self.let(f"tl.where({bit} == 1, {b}, {a})") for a, b in zip(first, second, strict=True)]
            values = [self.times(values[0], (chosen[0], chosen[1]))]
        for wire in work.local:
            column = self.column(wire, zero)
            values = [self.times(value, entry) for value in values for entry in column]
        return values

    def column(self, wire: int, zero: str) -> tuple[Number, Number]:
        first = self.plan.start[wire]
        if first is None:
            return (self.let(f"{zero} + 1.0"), zero), (zero, zero)
        matrix = self.matrix(first)
        return matrix[0][0], matrix[1][0]

    def times(self, a: Number, b: Number) -> Number:
        return self.let(f"{a[0]} * {b[0]} - {a[1]} * {b[1]}"), self.let(f"{a[0]} * {b[1]} + {a[1]} * {b[0]}")

    # Sums over a sample's amplitudes, for cotangents

    def total(self, terms: list[str], at: str) -> None:
        """Stores the sum over registers and over the lanes of each sample."""
        sums = self.let(" + ".join(terms))
        if self.rest > 1:
            sums = f"tl.sum(tl.reshape({sums}, [{self.lanes // self.rest}, {self.rest}]), axis=1)"
        self.add(f"tl.store({at}, {sums}, mask=first_here)")

    def outer(self, work: Round, step: Matrices, cotangents: list[Number], values: list[Number]) -> None:
        """`sum c_a conj(v_b)` over all other wires: what `sweep_plan` multiplies by the matrix."""
        side = 2 ** len(step.wires)
        pointer, size = "g" + POINTERS[step.group][1:], 2 * side * side
        for a in range(side):
            for b in range(side):
                real, imaginary = [], []
                for group in self.groups(work.local, step.wires):
                    (cr, ci), (vr, vi) = cotangents[group[a]], values[group[b]]
                    real.append(f"{cr} * {vr} + {ci} * {vi}")
                    imaginary.append(f"{ci} * {vr} - {cr} * {vi}")
                at = f"{pointer} + ((count * {step.index} + first_sample) * {size} + {2 * (a * side + b)}"
                self.total(real, at + ")")
                self.total(imaginary, at + " + 1)")

    def slopes(self, work: Round, step: Diagonal, cotangents: list[Number], values: list[Number]) -> None:
        """The cotangent of each coefficient: `sum Im(conj(c) v)` over the amplitudes where its feature is 1."""
        each = [self.let(f"{cr} * {vi} - {ci} * {vr}") for (cr, ci), (vr, vi) in zip(cotangents, values, strict=True)]
        for feature, column in self.place(step).items():
            inside, outside = self.feature(work.local, feature)
            terms = [
                name
                for register, name in enumerate(each)
                if all(self.register_bit(work.local, register, wire) for wire in inside)
            ]
            total = " + ".join(terms)
            at = f"gcoefficient + (first_sample * {self.width} + {column})"
            self.total([f"({total}) * {outside}" if outside else total], at)


def run_source(plan: Plan, itemsize: int, most_local: int) -> str:
    """Source of `run(out, m1d, m1s, m2d, m2s, coefficient, count)`, which writes final states.

    Args:
        plan: the plan.
        itemsize: bytes of a real number.
        most_local: local wires of a round.
    """
    s = _Source(plan, itemsize, most_local)
    pointers = ["out", *POINTERS.values(), "coefficient"]
    rounds = rounds_of(plan.later, s.n, s.k)
    for k, work in enumerate(rounds):
        s.begin(f"run_{k}", pointers)
        if k == 0:
            values = s.product(work)
        else:
            values = s.load("out", s.addresses(work, moved=False))
            s.add("tl.debug_barrier()")  # everything is read before anything is overwritten
        for step in work.steps:
            if isinstance(step, Matrices):
                values = s.apply(work, step, s.matrix(step), values)
            else:
                values = s.turn(s.phases(work, step), values, forwards=True)
        s.store("out", s.addresses(work, moved=True), values)
    return s.kernel("run", pointers, [f"run_{k}" for k in range(len(rounds))])


def sweep_source(plan: Plan, itemsize: int, most_local: int) -> str:
    """Source of `sweep(psi, pulled, m1d, m1s, m2d, m2s, coefficient, g1d, g1s, g2d, g2s, gcoefficient, count)`.

    It takes all steps back, from final states and their cotangents, both of which it overwrites, and writes for each sample the
    outer products of `_outer` in `dqk.backends.batched_states`, and the cotangents of coefficients. Arguments as in `run_source`.
    """
    s = _Source(plan, itemsize, most_local)
    gradients = ["g" + name[1:] for name in POINTERS.values()]
    pointers = ["psi", "pulled", *POINTERS.values(), "coefficient", *gradients, "gcoefficient"]
    rounds = rounds_of(plan.steps, s.n, s.k)
    for k, work in reversed(list(enumerate(rounds))):
        s.begin(f"sweep_{k}", pointers)
        s.add(f"first_sample = tl.program_id(0).to(tl.int64) * {s.lanes // s.rest} + tl.arange(0, {s.lanes // s.rest})")
        s.add("first_here = first_sample < count")
        where = s.addresses(work, moved=True)
        values, cotangents = s.load("psi", where), s.load("pulled", where)
        for step in reversed(work.steps):
            if isinstance(step, Matrices):
                matrix = s.matrix(step)
                values = s.apply(work, step, matrix, values, adjoint=True)
                cotangents = s.apply(work, step, matrix, cotangents, adjoint=True)
                s.outer(work, step, cotangents, values)
            else:
                s.slopes(work, step, cotangents, values)
                phases = s.phases(work, step)
                values, cotangents = (s.turn(phases, numbers, forwards=False) for numbers in (values, cotangents))
        if k:
            s.add("tl.debug_barrier()")
            where = s.addresses(work, moved=False)
            s.store("psi", where, values)
            s.store("pulled", where, cotangents)
    return s.kernel("sweep", pointers, [f"sweep_{k}" for k in reversed(range(len(rounds)))])
