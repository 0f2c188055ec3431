import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from glare import weights
from glare.model import GLARE


def test_round_trip(model: GLARE, tmp_path: Path) -> None:
    path = weights.save(model, tmp_path / "set", dtype=torch.float32)
    low = torch.rand(1, 3, 16, 16)
    for name in (tmp_path / "set", str(path)):
        loaded = GLARE.from_pretrained(name)
        assert loaded.config == model.config
        assert not loaded.training
        assert torch.equal(loaded(low), model(low))
    assert [p.name for p in (tmp_path / "set").iterdir()] == [weights.FILE]


def test_half_precision_by_default(model: GLARE, tmp_path: Path) -> None:
    path = weights.save(model, tmp_path)
    assert all(t.dtype == torch.float16 for t in load_file(path).values())
    loaded = weights.load(path)
    for key, value in loaded.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key].half().float(), rtol=0, atol=0)


def test_trained_on_is_what_all_stages_tell(model: GLARE, tmp_path: Path) -> None:
    lines = [f"{i:016x} {i}.png" for i in range(3)]
    entries = [{"stage": "codebook", "hashes": lines[:2]}, {"stage": "flow"}, {"hashes": lines[2:]}]
    assert weights.trained_on(weights.save(model, tmp_path / "new", history=entries)) == lines
    assert weights.trained_on(weights.save(model, tmp_path / "old", history=entries[1:2])) == []


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No weights at 'nothing': expected one of"):
        weights.load("nothing")


def test_truncated_file_is_named_with_its_hash(model: GLARE, tmp_path: Path) -> None:
    path = weights.save(model, tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(
        ValueError, match=rf"sha256 {weights.sha256(path)}\) is truncated or no safetensors file"
    ):
        weights.load(path)


def test_strict(model: GLARE, tmp_path: Path) -> None:
    tensors = model.state_dict()
    del tensors["flow.steps.0.invconv.weight"]
    tensors["extra"] = torch.zeros(1)
    tensors["fusion.mix.0.theta"] = torch.zeros(2)
    path = tmp_path / "odd.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(model.config.to_dict())})
    with pytest.raises(ValueError, match="does not fit its configuration") as error:
        weights.load(path)
    assert str(error.value).splitlines()[1:] == [
        "  missing: flow.steps.0.invconv.weight",
        "  left over: extra",
        "  misshapen: fusion.mix.0.theta is (2,), expected (1,)",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model: GLARE, tmp_path: Path, value: float) -> None:
    path = weights.save(model, tmp_path, dtype=torch.float32)
    tensors = load_file(path)
    name = "fusion.mix.0.theta"
    tensors[name].fill_(value)
    save_file(tensors, path, metadata={"config": json.dumps(model.config.to_dict())})
    with pytest.raises(ValueError, match=f"not finite: {name}"):
        weights.load(path)
    broken = copy.deepcopy(model)
    broken.load_state_dict(tensors)
    with pytest.raises(ValueError, match=rf"not finite as torch\.float32:\n  not finite: {name}"):
        weights.save(broken, tmp_path / "new", dtype=torch.float32)
    assert not (tmp_path / "new").exists()


def test_what_half_precision_cannot_hold_is_refused(model: GLARE, tmp_path: Path) -> None:
    large = copy.deepcopy(model)
    with torch.no_grad():
        large.get_parameter("fusion.mix.0.theta").fill_(70000.0)
    with pytest.raises(ValueError, match=r"not finite as torch\.float16"):
        weights.save(large, tmp_path / "half")
    weights.load(weights.save(large, tmp_path / "single", dtype=torch.float32))


def test_foreign_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="holds no GLARE configuration"):
        weights.load(path)
