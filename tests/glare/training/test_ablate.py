"""experiments/ablate.py, on a network that takes no time."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from glare import GLARE, weights
from tests.glare.conftest import SMALL, randomise
from tests.scripts import load_script


def test_a_row_for_each_part_that_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("accelerate", reason="training needs the extra `train`")
    ablate = load_script("ablate")
    torch.manual_seed(0)
    model = GLARE(SMALL)
    randomise(model)
    weights.save(model, tmp_path / "start")
    for name, scale in (("low", 30), ("high", 255)):
        (tmp_path / name).mkdir()
        picture = (torch.rand(48, 40, 3, generator=torch.Generator().manual_seed(0)) * scale).byte()
        Image.fromarray(picture.numpy()).save(tmp_path / name / "1.png")

    words = f"--init {tmp_path / 'start'} --pairs {tmp_path} --val {tmp_path} --out {tmp_path / 'out'}"
    ablate.main([*words.split(), *["--steps", "2", "--batch", "2", "--crop", "32", "--dtype", "float32"]])

    printed = capsys.readouterr().out
    for kind, variants in ablate.VARIANTS.items():
        table = (tmp_path / "out" / f"{kind}.md").read_text()
        rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
        assert rows == list(variants)
        assert all(name in printed for name in variants)
    # What is left out changes the result: no two rows are the same run.
    ends = [
        (tmp_path / "out" / f"fusion_{name.replace(' ', '_')}" / "last" / "model.safetensors").read_bytes()
        for name in ablate.VARIANTS["fusion"]
    ]
    assert len(set(ends)) == len(ends)
