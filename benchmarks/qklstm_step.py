"""One training step of the QK-LSTM: dqk against nn.LSTM and against PennyLane.

Table I's size: 4 qubits, 4 references per gate, 5 tokens, batch 1, embedding 8, hidden 6. A step is forward, loss, backward
and Adam, as torch gives it and fused. Three models take it: the recurrent layer alone, with the library's defaults and with
Table I's options, and a tagger around the former (embedding, layer, linear head), on which the PennyLane versions are
measured: the same model with the same weights, whose loss is compared before anything is timed. A larger case, batch 64,
50 steps, input 32, hidden 64, 8 qubits and 16 references, is compared with nn.LSTM(32, 64).

Run `python benchmarks/qklstm_step.py`; `--json FILE` keeps the figures. Times are medians of alternating runs in one process
on one thread of an otherwise idle machine.
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
from dqk.kernels.feature_maps import reuploading_feature_map
from dqk.nn import SequenceTagger
from dqk.nn.layout import Layout

QUBITS, REFERENCES, TOKENS, EMBEDDING, HIDDEN, WORDS, TAGS = 4, 4, 5, 8, 6, 9, 3
NAMED = "default.qubit, backprop, references of a gate broadcast"  # what a user writes first
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


def step_of(loss_of: Callable[[], Tensor], parameters: Any, fused: bool = False) -> Callable[[], float]:
    optimizer = torch.optim.Adam(parameters, lr=0.0, fused=fused or None)

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def tagging(forward: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    words, tags = torch.arange(TOKENS)[None], torch.tensor([0, 1, 2, 0, 1])
    return lambda: nn.functional.cross_entropy(forward(words).flatten(0, 1), tags)


def measure_layers(
    make: dict[str, Callable[[], nn.Module]], x: Tensor, repeats: int, steps: int
) -> list[dict[str, Any]]:
    """Steps of layers alone, with the mean square of the output as loss; the last layer is what the others are compared with."""
    sides: dict[str, Callable[[], Any]] = {}
    for name, build in make.items():
        for adam in ("Adam", "fused Adam"):
            layer = build()
            step = step_of(lambda layer=layer: layer(x)[0].square().mean(), layer.parameters(), adam == "fused Adam")
            sides[f"{name}, {adam}"] = lambda step=step: [step() for _ in range(steps)]
    seconds = alternate(sides, repeats)
    last = list(make)[-1]
    return [
        {
            "model": side,
            "ms": 1e3 * seconds[side] / steps,
            "over nn.LSTM": seconds[side] / seconds[f"{last}, {side.rpartition(', ')[2]}"],
        }
        for side in sides
    ]


def table_one_layers(repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    options: dict[str, Any] = {"n_qubits": QUBITS, "n_references": REFERENCES, "batch_first": True}
    make = {
        "QKLSTM": lambda: QKLSTM(EMBEDDING, HIDDEN, **options),
        "QKLSTM as in Table I": lambda: QKLSTM(EMBEDDING, HIDDEN, references="fixed", readout="shared", **options),
        "nn.LSTM": lambda: nn.LSTM(EMBEDDING, HIDDEN, batch_first=True),
    }
    return measure_layers(make, torch.randn(1, TOKENS, EMBEDDING), 3 * repeats, 50)


def large_layers(repeats: int) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    uploading = reuploading_feature_map(8, 3)
    make = {
        "QKLSTM": lambda: QKLSTM(32, 64, n_qubits=8, n_references=16),
        "QKLSTM, 3 layers of re-uploading": lambda: QKLSTM(32, 64, feature_map=uploading, n_references=16),
        "nn.LSTM": lambda: nn.LSTM(32, 64),
    }
    return measure_layers(make, torch.randn(50, 64, 32), max(3, repeats // 2), 1)


def memory_of_backward() -> list[dict[str, Any]]:
    """What a layer keeps for its backward pass and works on in it, over its activations in the large case."""
    steps, batch, hidden, qubits, references = 50, 64, 64, 8, 16
    numbers = (
        hidden + 4 * hidden + hidden + qubits + 4 * references
    )  # h, gates, c, z and kernel values of one time step
    activations = 4 * steps * batch * numbers
    rows = []
    for name, options in {
        "QKLSTM": {"n_qubits": qubits},
        "QKLSTM, 3 layers of re-uploading": {"feature_map": reuploading_feature_map(qubits, 3)},
    }.items():
        layer = QKLSTM(32, hidden, n_references=references, **options)
        plan, layout = layer.cells[0].plan, Layout(steps, batch)
        lanes = plan.lanes(layout, torch.float32)
        vectors = plan.records(layout, lanes, True) + plan.work[torch.float32, lanes][1]
        kept = 4 * (lanes * vectors + sum(parameter.numel() for parameter in layer.parameters()))
        rows.append({"model": name, "MiB": kept / 2**20, "over activations": kept / activations})
    return rows


def taggers(repeats: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tagger around a QKLSTM and around nn.LSTM; then the former by PennyLane."""
    torch.manual_seed(0)
    lengths = torch.tensor([TOKENS])
    options: dict[str, Any] = {"n_qubits": QUBITS, "n_references": REFERENCES, "batch_first": True}
    model = QKLSTM(EMBEDDING, HIDDEN, **options)
    ours, lstm = tagger(model), tagger(nn.LSTM(EMBEDDING, HIDDEN, batch_first=True))
    sides: dict[str, Callable[[], Any]] = {}
    for name, whole in (("QKLSTM", ours), ("nn.LSTM", lstm)):
        for adam in ("Adam", "fused Adam"):
            loss = tagging(lambda words, whole=whole: whole(words, lengths))
            step = step_of(loss, whole.parameters(), adam == "fused Adam")
            sides[f"{name}, {adam}"] = lambda step=step: [step() for _ in range(50)]
    seconds = alternate(sides, 3 * repeats)
    rows = [
        {
            "model": side,
            "ms": 20 * seconds[side],
            "over nn.LSTM": seconds[side] / seconds[f"nn.LSTM, {side.rpartition(', ')[2]}"],
        }
        for side in sides
    ]
    whole = pennylane(
        model,
        ours.parameters(),
        tagging(lambda words: ours(words, lengths)),
        lambda peer: tagging(lambda words: ours.head(peer(ours.embedding(words))[0])),
        repeats,
    )
    return rows, whole


def layer_by_pennylane(repeats: int) -> list[dict[str, Any]]:
    """The layer alone: the steps of `table_one_layers`, learned references and a readout per gate."""
    torch.manual_seed(0)
    model = QKLSTM(EMBEDDING, HIDDEN, n_qubits=QUBITS, n_references=REFERENCES, batch_first=True)
    x = torch.randn(1, TOKENS, EMBEDDING)
    return pennylane(
        model,
        model.parameters(),
        lambda: model(x)[0].square().mean(),
        lambda peer: lambda: peer(x)[0].square().mean(),
        repeats,
    )


def pennylane(
    model: QKLSTM,
    parameters: Any,
    ours: Callable[[], Tensor],
    theirs: Callable[[nn.Module], Callable[[], Tensor]],
    repeats: int,
) -> list[dict[str, Any]]:
    """The same loss by PennyLane, against dqk with Adam as it comes.

    Args:
        model: whose cell PennyLane evaluates.
        parameters: what both train.
        ours: the loss by dqk.
        theirs: the loss around a module that takes the layer's place.
        repeats: visits to each side.
    """
    parameters = list(parameters)
    versions = {
        NAMED: ("default.qubit", "backprop", REFERENCES),
        "default.qubit, backprop, all references broadcast": ("default.qubit", "backprop", 4 * REFERENCES),
        "default.qubit, backprop, one pair at a time": ("default.qubit", "backprop", 1),
        "lightning.qubit, adjoint": ("lightning.qubit", "adjoint", 1),
        "lightning.qubit, parameter-shift": ("lightning.qubit", "parameter-shift", 1),
    }
    kernels = {name: (circuit(device, method), width) for name, (device, method, width) in versions.items()}
    kernels["default.qubit, states, references once per pass"] = (states_once(False), 4 * REFERENCES)
    kernels["... and without the CNOT chain, which cancels"] = (states_once(True), 4 * REFERENCES)
    dqk_step = step_of(ours, parameters)
    expected = dqk_step()
    rows = []
    for name, (kernel, width) in kernels.items():
        peer = PennyLaneQKLSTM(model, kernel, width)
        step = step_of(theirs(peer), parameters)
        found = step()
        if abs(found - expected) > 1e-5:
            raise SystemExit(f"{name}: loss {found}, dqk has {expected}: not the same model")
        seconds = alternate({"peer": step, "dqk": lambda: [dqk_step() for _ in range(20)]}, max(2, repeats // 3))
        rows.append({"version": name, "ms": 1e3 * seconds["peer"], "over dqk": seconds["peer"] / (seconds["dqk"] / 20)})
    return rows


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    first, unit, ratio = rows[0]
    for name in (first, unit, ratio):
        table.add_column(name, justify="left" if name == first else "right")
    for row in rows:
        table.add_row(row[first], f"{row[unit]:.3g}", f"{row[ratio]:.3g}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--without-pennylane", action="store_true", help="only what is compared with nn.LSTM")
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    options = parser.parse_args()
    torch.set_num_threads(1)  # tensors this small gain nothing from a second one, on any side
    figures: dict[str, Any] = {"machine": machine(), "layer": table_one_layers(options.repeats)}
    show("Table I's size, the layer alone (goals: 0.6 with Adam, 0.45 with fused Adam)", figures["layer"])
    figures["layer_batch_64"] = large_layers(options.repeats)
    show("Batch 64, 50 steps, input 32, hidden 64, 8 qubits, 16 references (goal: 7)", figures["layer_batch_64"])
    figures["memory"] = memory_of_backward()
    show("The same: memory for the backward pass, gradients included (goal: 2)", figures["memory"])
    if not options.without_pennylane:
        figures["tagger"], figures["pennylane"] = taggers(options.repeats)
        show("Table I's size, a tagger with packed sequences", figures["tagger"])
        show("The same tagger by PennyLane", figures["pennylane"])
        figures["pennylane_layer"] = layer_by_pennylane(options.repeats)
        show(
            "The layer alone by PennyLane (goals: 500 for the fastest, 5,000 for parameter-shift)",
            figures["pennylane_layer"],
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
