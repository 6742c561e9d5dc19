"""The fused kernels, run by Triton's interpreter on the CPU, against the dense reference; and in which rounds they work.

Triton decides when it is imported whether it interprets: this file's kernels run in a process of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from dqk.backends.batching import Permutation, plan_of, source_states
from dqk.backends.fused_rounds import coefficients, destinations, rounds_of
from dqk.circuit import simplify_for_fidelity
from dqk.kernels.feature_maps import reuploading_feature_map
from tests.cases import CIRCUITS

_COMPARE = """
import json, sys
import torch
from dqk.backends import gpu
from dqk.backends._custatevec import CuStateVecBackend
from dqk.backends._triton_states import LOCAL_WIRES
from dqk.backends.reference import ReferenceBackend
from tests.cases import CIRCUITS
from tests.random_circuits import random_circuit

gpu.missing = lambda: None
gpu.device_for = lambda samples: samples.device
gpu.free_bytes = lambda device: 2**26
LOCAL_WIRES.update(json.loads(sys.argv[1]))
reference, found = ReferenceBackend(), {}
circuits = CIRCUITS if sys.argv[2] == "cases" else {str(seed): random_circuit(seed) for seed in range(6)}
for name, circuit in circuits.items():
    if circuit.n_qubits > 3 and circuits is CIRCUITS and not name.startswith("reuploading"):
        continue  # the interpreter is slow
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    single = name in ("gate-cry", "diagonal-run", "reuploading_feature_map-rotations")
    for dtype in (torch.float64, torch.float32) if single else (torch.float64,):
        angles, shared = draw(3, circuit.n_data), draw(circuit.n_shared)
        expected = reference.encode(circuit, angles, shared)
        pulled = draw(*expected.shape)
        swept = circuit.n_qubits <= 3
        slopes = reference.encode_vjp(circuit, angles, shared, expected, pulled) if swept else ()
        angles, shared, pulled = (t.to(dtype) for t in (angles, shared, pulled))
        backend = CuStateVecBackend(fused=True)
        states = backend.encode(circuit, angles, shared)
        pairs = [(states, expected)]
        pairs += zip(backend.encode_vjp(circuit, angles, shared, states, pulled), slopes) if swept else ()
        worst = [float((a.double() - b).abs().max()) if b.numel() else 0.0 for a, b in pairs]
        found[f"{name} {dtype}"] = [str(states.dtype), len(circuit.gates), worst[0], max(worst[1:], default=0.0)]
print(json.dumps(found))
"""


@pytest.mark.parametrize(("local", "circuits"), [({}, "cases"), ({"run": 2, "sweep": 2}, "random")])
def test_kernels_agree_with_the_reference(local: dict[str, int], circuits: str) -> None:
    """States and the cotangents of angles, in both precisions."""
    pytest.importorskip("triton", reason="Triton is there for Linux only")
    done = subprocess.run(
        [sys.executable, "-c", _COMPARE, json.dumps(local), circuits],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) >= 6
    for name, (dtype, gates, state, slope) in found.items():
        double = name.endswith("float64")
        assert dtype == ("torch.float64" if double else "torch.float32")
        assert state <= (1e-12 if double else 2e-5 * max(1, gates / 100)), f"{name}: states differ by {state}"
        # Cotangents are sums over 2**n random numbers of size 2.
        assert slope <= (1e-11 if double else 1e-3), f"{name}: cotangents differ by {slope}"


_COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dqk.backends._triton_states import LOCAL_WIRES, _kernel
from dqk.backends.batching import plan_of
from tests.cases import CIRCUITS

for name, pointer, itemsize in (("run", "*fp32", 4), ("sweep", "*fp64", 8)):
    kernel = _kernel(plan_of(CIRCUITS["diagonal-run"]), name, itemsize)
    signature = {argument: "i32" if argument == "count" else pointer for argument in kernel.arg_names}
    found = triton.compile(ASTSource(kernel, signature, {}), target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    assert ".target sm_90" in found.asm["ptx"] and len(found.asm["cubin"]) > 1000
    assert "sin.approx" not in found.asm["ptx"], "sines of 21 bits"
"""


def test_kernels_compile_for_a_gpu(tmp_path) -> None:
    """Triton needs no GPU for that, and its interpreter accepts more than its compiler."""
    pytest.importorskip("triton", reason="Triton is there for Linux only")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment |= {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("most", [2, 3, 4])
def test_rounds_keep_what_does_not_commute_in_order(name: str, most: int) -> None:
    circuit = CIRCUITS[name]
    plan = plan_of(circuit)
    rounds = rounds_of(plan.steps, circuit.n_qubits, min(most, circuit.n_qubits))
    done = [step for work in rounds for step in [*work.steps, *work.moves]]
    assert len(done) == len(plan.steps) and set(map(id, done)) == set(map(id, plan.steps))
    for work in rounds:
        assert len(work.local) == min(most, circuit.n_qubits)
        assert all(set(step.wires) <= set(work.local) for step in work.steps if step in sum(plan.groups.values(), []))
    place = {id(step): k for k, step in enumerate(done)}
    for k, earlier in enumerate(plan.steps):
        for later in plan.steps[k + 1 :]:
            if set(earlier.wires) & set(later.wires):
                assert place[id(earlier)] < place[id(later)]


@pytest.mark.parametrize("name", CIRCUITS)
def test_permutations_are_affine_maps(name: str) -> None:
    """Addresses by exclusive or are the table that cuStateVec's path gathers by."""
    circuit = CIRCUITS[name]
    for step in plan_of(circuit).steps:
        if isinstance(step, Permutation):
            image = destinations([step], circuit)
            moved = [image.offset] * 2**circuit.n_qubits
            for state in range(2**circuit.n_qubits):
                for wire, column in enumerate(image.columns):
                    if state >> (circuit.n_qubits - 1 - wire) & 1:
                        moved[state] ^= column
            assert np.array_equal(source_states(step, circuit)[moved], np.arange(2**circuit.n_qubits))


def test_a_layer_of_the_reuploading_map_takes_few_passes() -> None:
    """RY and RZ of a wire are one matrix, the ring of CNOTs is one permutation, and four wires make a round."""
    circuit = simplify_for_fidelity(reuploading_feature_map(10, layers=3).circuit).circuit
    plan = plan_of(circuit)
    later = [type(step).__name__ for step in plan.later]
    assert later == (["Permutation"] + ["Matrices"] * 10) * 2
    assert len(rounds_of(plan.later, 10, 4)) == 1 + 2 * 3


def test_phases_are_sums_of_products_of_bits() -> None:
    """Against the phases of the gates' own matrices."""
    circuit = CIRCUITS["diagonal-run"]
    plan = plan_of(circuit)
    columns, entries = coefficients(plan)
    ((place, features),) = columns.items()
    angles = np.linspace(0.3, 1.9, len(circuit.gates))
    for state in range(8):
        bits = [state >> (2 - wire) & 1 for wire in range(3)]
        value = {column: all(bits[wire] for wire in feature) for feature, column in features.items()}
        phase = sum(factor * angles[gate] * value[column] for gate, column, factor in entries)
        expected = 1.0 + 0j
        for position in plan.steps[place].gates:
            gate = circuit.gates[position]
            code = int("".join(str(bits[wire]) for wire in gate.wires), 2)
            if gate.generator is None:
                expected *= gate.unitary()[code, code]
                phase += (1 - angles[position]) * sum(f * value[c] for g, c, f in entries if g == position)
            else:
                expected *= np.exp(-1j * angles[position] * gate.generator[code, code])
        assert np.exp(-1j * phase) == pytest.approx(expected, abs=1e-12)
