"""One training step of the QK-LSTM at Table I's size: dqk against PennyLane and against nn.LSTM.

4 qubits, 4 references per gate, 5 tokens, batch 1, embedding 8, hidden 6; a step is forward, loss, backward and Adam.
Run `python benchmarks/qklstm_step.py`; `--json FILE` keeps the figures. The PennyLane versions are the same model with the
same weights: their loss is compared before anything is timed. Times are medians of alternating runs in one process on an
otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import pennylane as qml
import torch
from rich.console import Console
from rich.table import Table
from timing import alternate, machine
from torch import Tensor, nn

from dqk import QKLSTM
from dqk.nn import SequenceTagger

QUBITS, REFERENCES, TOKENS, EMBEDDING, HIDDEN, WORDS, TAGS = 4, 4, 5, 8, 6, 9, 3
console = Console(width=110)


def encode(z: Tensor) -> None:
    """The paper's circuit, as its figure 2 draws it."""
    for q in range(QUBITS):
        qml.Hadamard(q)
        qml.RY(z[..., q], q)
        qml.RZ(z[..., q], q)
    for q in range(QUBITS - 1):
        qml.CNOT([q, q + 1])


def circuit(device: str, method: str) -> Callable[[Tensor, Tensor], Tensor]:
    """`k(z, r)`, where z or r may be a batch."""

    @qml.qnode(qml.device(device, wires=QUBITS), interface="torch", diff_method=method)
    def kernel(z: Tensor, r: Tensor) -> Any:
        encode(z)
        qml.adjoint(encode)(r)
        return qml.expval(qml.Projector([0] * QUBITS, wires=range(QUBITS)))

    return kernel


class PennyLaneQKLSTM(nn.Module):
    """The cell of a `QKLSTM` with learned references and a readout per gate, evaluated by PennyLane.

    `width` is the number of references that one circuit execution takes as a broadcast batch: 1, N, or 4 N for the
    references of all gates at once.
    """

    def __init__(self, model: QKLSTM, kernel: Callable[[Tensor, Tensor], Tensor], width: int):
        super().__init__()
        self.cell = model.cells[0]
        self.kernel, self.width = kernel, width

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        cell = self.cell
        h = c = x.new_zeros(len(x), HIDDEN)
        references, outputs = cell.references.flatten(0, 1), []
        parts = references.split(self.width) if self.width > 1 else references.unbind()
        for t in range(x.shape[1]):
            (z,) = cell.projection(torch.cat([h, x[:, t]], dim=1))
            values = torch.cat([self.kernel(z, part).reshape(-1) for part in parts])
            k = cell.kernel_scale * values.to(x.dtype).view(4, REFERENCES)
            gates = torch.einsum("gn,gnh->gh", k, cell.alpha) + cell.gate_bias
            forget, write, show = gates[:3].sigmoid()
            c = forget * c + write * gates[3].tanh()
            h = show * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, dim=1), None


def states_once(cancel: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """What an expert would write: states instead of a circuit per pair, overlaps in torch; `cancel` leaves out the CNOT chain."""

    @qml.qnode(qml.device("default.qubit", wires=QUBITS), interface="torch", diff_method="backprop")
    def state(z: Tensor) -> Any:
        for q in range(QUBITS):
            qml.Hadamard(q)
            qml.RY(z[..., q], q)
            qml.RZ(z[..., q], q)
        for q in range(0 if cancel else QUBITS - 1):
            qml.CNOT([q, q + 1])
        return qml.state()

    kept: list[Any] = [None, None]

    def kernel(z: Tensor, r: Tensor) -> Tensor:
        if kept[0] is not r:  # references are new tensors in every forward pass, and encoded once in it
            kept[:] = r, state(r)
        return (kept[1].conj() @ state(z)).abs() ** 2

    return kernel


def tagger(recurrent: nn.Module) -> SequenceTagger:
    torch.manual_seed(1)
    return SequenceTagger(recurrent, WORDS, EMBEDDING, TAGS)


def step_of(forward: Callable[[Tensor], Tensor], parameters: Any) -> Callable[[], float]:
    words = torch.arange(TOKENS)[None]
    tags = torch.tensor([[0, 1, 2, 0, 1]])
    optimizer = torch.optim.Adam(parameters, lr=0.0)

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(words).flatten(0, 1), tags.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def measure(repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = QKLSTM(EMBEDDING, HIDDEN, n_qubits=QUBITS, n_references=REFERENCES, batch_first=True)
    ours = tagger(model)
    lengths = torch.tensor([TOKENS])
    dqk_step = step_of(lambda words: ours(words, lengths), ours.parameters())
    lstm = tagger(nn.LSTM(EMBEDDING, HIDDEN, batch_first=True))
    lstm_step = step_of(lambda words: lstm(words, lengths), lstm.parameters())
    versions = {
        "PennyLane default.qubit, backprop, all references broadcast": ("default.qubit", "backprop", 4 * REFERENCES),
        "PennyLane default.qubit, backprop, references of a gate broadcast": ("default.qubit", "backprop", REFERENCES),
        "PennyLane default.qubit, backprop, one pair at a time": ("default.qubit", "backprop", 1),
        "PennyLane lightning.qubit, adjoint": ("lightning.qubit", "adjoint", 1),
        "PennyLane lightning.qubit, parameter-shift": ("lightning.qubit", "parameter-shift", 1),
    }
    kernels = {name: (circuit(device, method), width) for name, (device, method, width) in versions.items()}
    kernels["PennyLane default.qubit, states, references once per pass"] = (states_once(False), 4 * REFERENCES)
    kernels["... and without the CNOT chain, which cancels"] = (states_once(True), 4 * REFERENCES)
    expected = dqk_step()
    rows = []
    for name, (kernel, width) in kernels.items():
        peer = PennyLaneQKLSTM(model, kernel, width)
        step = step_of(lambda words, peer=peer: ours.head(peer(ours.embedding(words))[0]), ours.parameters())
        found = step()
        if abs(found - expected) > 1e-5:
            raise SystemExit(f"{name}: loss {found}, dqk has {expected}: not the same model")
        seconds = alternate({"peer": step, "dqk": lambda: [dqk_step() for _ in range(20)]}, max(2, repeats // 3))
        rows.append({"version": name, "ms": 1e3 * seconds["peer"], "over dqk": seconds["peer"] / (seconds["dqk"] / 20)})
    sides = {"dqk": lambda: [dqk_step() for _ in range(50)], "lstm": lambda: [lstm_step() for _ in range(50)]}
    seconds = alternate(sides, 3 * repeats)
    own, torch_lstm = seconds["dqk"] / 50, seconds["lstm"] / 50
    return {
        "machine": machine(),
        "dqk_ms": 1e3 * own,
        "nn_lstm_ms": 1e3 * torch_lstm,
        "dqk_over_nn_lstm": own / torch_lstm,
        "references_broadcast_over_dqk": rows[1]["over dqk"],
        "goal": 100,
        "fastest_pennylane_over_dqk": min(row["over dqk"] for row in rows),
        "pennylane": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # tensors this small gain nothing from a second one, on any side
    figures = measure(options.repeats)
    table = Table(title="One training step at Table I's size", title_justify="left")
    for name in ("version", "ms", "over dqk"):
        table.add_column(name, justify="left" if name == "version" else "right")
    table.add_row("dqk QKLSTM", f"{figures['dqk_ms']:.3f}", "1")
    table.add_row("nn.LSTM", f"{figures['nn_lstm_ms']:.3f}", f"{1 / figures['dqk_over_nn_lstm']:.3f}")
    for row in figures["pennylane"]:
        table.add_row(row["version"], f"{row['ms']:.1f}", f"{row['over dqk']:.0f}")
    console.print(table)
    console.print(
        f"a gate's references broadcast / dqk: {figures['references_broadcast_over_dqk']:.0f} (goal: {figures['goal']}); "
        f"fastest version here / dqk: {figures['fastest_pennylane_over_dqk']:.0f}; "
        f"dqk / nn.LSTM: {figures['dqk_over_nn_lstm']:.2f}"
    )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
