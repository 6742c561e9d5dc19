"""Checkpoints come back bit for bit, and a damaged one is never used."""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dqk.errors import CheckpointError
from dqk.training import checkpoint
from dqk.training.files import read_json, write_atomic

TENSORS = {
    "model.weight": torch.randn(3, 4, dtype=torch.float64),
    "model.half": torch.tensor([float("nan"), -0.0, 1e-40]),
    "optimizer.0.step": torch.tensor(7.0),
    "rng.torch": torch.get_rng_state(),
    "flags": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
}
DOCUMENT = {"epoch": 3, "loss": 0.1 + 0.2, "name": "é"}


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save_checkpoint(path, TENSORS, DOCUMENT)
    tensors, document = checkpoint.load_checkpoint(path, "remedy")
    assert document == DOCUMENT
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(tensors[name]) == bits(tensor)
    assert [entry.name for entry in tmp_path.iterdir()] == ["c.safetensors"]  # no temporary file is left


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_any_damaged_byte_is_found(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save_checkpoint(path, TENSORS, DOCUMENT)
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), label="truncate"):
        content = content[: data.draw(st.integers(0, len(content) - 1), label="length")]
    else:
        content[data.draw(st.integers(0, len(content) - 1), label="position")] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        checkpoint.load_checkpoint(path, "do this")
    assert str(path) in str(error.value) and "do this" in str(error.value)


def test_missing_file_and_file_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is missing; do this"):
        checkpoint.load_checkpoint(tmp_path / "none", "do this")
    (tmp_path / "text").write_text("no tensors here")
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load_checkpoint(tmp_path / "text", "do this")


def test_parameters_of_another_model_are_refused(tmp_path: Path) -> None:
    tensors = checkpoint.pack("model", torch.nn.Linear(2, 3).state_dict())
    with pytest.raises(CheckpointError, match="does not fit"):
        checkpoint.load_model(torch.nn.Linear(2, 4), tensors, tmp_path)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimiser_goes_on_where_it_was(kind: type, tmp_path: Path) -> None:
    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (model(torch.ones(1, 2)) ** 2).sum().backward()
        optimizer.step()

    torch.manual_seed(0)
    model = torch.nn.Linear(2, 3)
    optimizer = kind(model.parameters(), lr=0.1)
    step(model, optimizer)
    twin = torch.nn.Linear(2, 3)
    twin.load_state_dict(model.state_dict())
    twin_optimizer = kind(twin.parameters(), lr=0.1)
    checkpoint.save_checkpoint(tmp_path / "c", checkpoint.optimizer_tensors(optimizer), {})
    checkpoint.load_optimizer(twin_optimizer, checkpoint.load_checkpoint(tmp_path / "c", "")[0])
    step(model, optimizer)
    step(twin, twin_optimizer)
    assert torch.equal(model.weight, twin.weight)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dqk.training.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_damaged_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"half":')
    for name in ("a.json", "missing.json"):
        with pytest.raises(CheckpointError) as error:
            read_json(tmp_path / name)
        assert name in str(error.value)
