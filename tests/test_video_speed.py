"""experiments/video_speed.py: a run on a small clip and a pair."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from glare import GLARE, GLAREEnhance
from tests.glare.conftest import SMALL
from tests.scripts import load_script

pytest.importorskip("av")
video_speed = load_script("video_speed")
FORMS = ("single frames", "steadied", "half the size", "half the size, steadied")


def test_a_clip_is_a_dark_pan() -> None:
    frames = video_speed.clip(3, 32, 48)
    assert frames.shape == (3, 3, 32, 48)
    assert torch.equal(frames[1, ..., : -video_speed.STEP], frames[0, ..., video_speed.STEP :])
    assert 0 < frames.float().mean() < 40


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
        pixels = np.full((24, 32, 3), 20 if name == "low" else 120, np.uint8)
        PIL.Image.fromarray(pixels).save(tmp_path / name / "1.png")
    torch.manual_seed(0)
    network = GLARE(SMALL)
    monkeypatch.setattr(video_speed, "GLAREEnhance", lambda **options: GLAREEnhance(network, **options))
    arguments = ["video_speed.py", "--frames", "3", "--size", "48x32", "--val", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    video_speed.main()
    told = capsys.readouterr().out
    tables = [
        {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in table.splitlines()[2:])}
        for table in told.split("\n\n")
    ]
    assert list(tables[0]) == [*FORMS, "decoding and encoding alone"]
    assert float(tables[0]["single frames"][-1]) == 1
    assert all(float(cell) > 0 for cells in tables[0].values() for cell in cells)
    assert list(tables[1]) == ["steadied", "half the size, steadied"]
    assert all(float(cell) > 0 for cells in tables[1].values() for cell in cells)
    full, half, loss, pairs = map(float, tables[2]["plain"])
    assert pairs == 1
    assert full - half == pytest.approx(loss, abs=0.011)
