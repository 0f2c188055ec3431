"""`experiments.speed`, on a network and on images that take no time; never a time itself."""

import csv
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torchvision.io import write_png

from experiments.speed import plan
from experiments.speed.chain import chain
from experiments.speed.cli import calls, main
from experiments.speed.forms import load
from experiments.speed.measures import MEASURES
from experiments.straightforward import straightforward
from glare import GLAREConfig, weights
from glare.image import pad
from glare.model import GLARE
from tests.glare.conftest import FOLDED, SMALL, randomise


@pytest.fixture
def small(model: GLARE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plan of small images, with one small network, which is returned, in the place of both models."""
    weights.save(model, tmp_path / "small", dtype=torch.float32)
    small = str(tmp_path / "small")
    for name in ("BASE", "TINY"):
        monkeypatch.setattr(plan, name, small)
    monkeypatch.setattr(plan, "VARIANT_SIZES", {small: [(256, 256)]})
    monkeypatch.setattr(plan, "RATIO_SIZE", (256, 256))
    monkeypatch.setattr(plan, "GAIN_SIZES", {small: (32, 24)})
    monkeypatch.setattr(plan, "PROFILE_SIZES", {small: (32, 24)})
    monkeypatch.setattr(plan, "SCALING_SIZES", [(16, 16), (32, 32)])
    monkeypatch.setattr(plan, "WARM_SIZE", (16, 16))
    monkeypatch.setattr(plan, "FOLDER", (2, (16, 16)))
    return small


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for side in ("low", "high"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        for name in ("1.png", "2.png"):
            image = torch.randint(0, 60, (3, 32, 28), dtype=torch.uint8)
            write_png(image, str(tmp_path / "pairs" / side / name))
    return tmp_path / "pairs"


def test_a_run(small: str, pairs: Path, tmp_path: Path) -> None:
    doc = tmp_path / "doc.md"
    block = "<!-- speed: {} -->\n{}\n<!-- speed end -->\n"
    doc.write_text("a\n" + block.format("variants", "old") + "b\n" + block.format("gains", "kept"))
    only = f"--only variants profile fidelity scaling batch --models {small} --runs 1"
    main(f"{only} --val {pairs} --out {tmp_path}/out --doc {doc}".split())
    with (tmp_path / "out" / "speed.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))

    plain, fast, in_bf16 = (row for row in rows if row["table"] == "variants")
    assert (plain["form"], fast["form"], in_bf16["dtype"]) == ("straightforward", "optimized", "bf16")
    for row in (plain, fast, in_bf16):
        assert all(float(row[column]) > 0 for column in ("ms", "ratio", "GFLOP", "GFLOP/s", "share"))
    assert float(fast["GFLOP"]) < float(plain["GFLOP"])
    # The map of all positions against all is held twice by the straightforward form, and never by the other.
    maps = MEASURES["attention in linear memory"].saved(load(small), 256, 256).held / 1e6
    assert maps == pytest.approx(2 * 4 * 4096**2 / 1e6)
    if sys.platform == "linux":
        assert float(plain["MB"]) > maps
        assert float(fast["MB"]) < maps

    profile = [row for row in rows if row["table"] == "profile"]
    parts = {row["what"] for row in profile if row["by"] == "part"}
    assert parts >= {
        "conditional encoder",
        "flow inverse",
        "code search",
        "code features",
        "second decoder",
        "warp",
        "refinement",
    }
    for by in ("part", "kind"):
        assert sum(float(row["% of time"]) for row in profile if row["by"] == by) == pytest.approx(100)

    for row in (row for row in rows if row["table"] == "fidelity"):
        assert float(row["images"]) == 2
        assert 0 <= float(row["equal codes"]) <= 1
        assert 0 < float(row["latent's relative error"]) < 0.5
        assert 0 < float(row["PSNR, lowest"]) <= float(row["PSNR, mean"])
    scaling = [(row["form"], float(row["megapixels"])) for row in rows if row["table"] == "scaling"]
    forms = "transform", "transform, tile=None"
    assert scaling == [(form, megapixels) for form in forms for megapixels in (0.000256, 0.001024)]
    assert math.isfinite(float(next(row for row in rows if row["table"] == "batch")["overhead %"]))

    found = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert found["machine"]["float32_gflops"] > 0
    assert {row["hit or miss"] for row in found["targets"]} <= {"hit", "miss"}
    assert str(tmp_path) not in found["command"]
    assert "<svg" in (tmp_path / "scaling.svg").read_text()
    assert "straightforward" in doc.read_text()
    assert "old" not in doc.read_text()
    assert re.search(r"gains -->\nkept\n<!--", doc.read_text())  # no part of this run


def test_in_front_of_a_detector(small: str) -> None:
    ticks: list[None] = []
    table = chain(small, "cpu", 2, lambda: ticks.append(None))
    assert list(table["form"]) == ["put_in_front", "threads that ultralytics leaves"]
    assert len(ticks) == calls(["chain"], [small], 2, False)
    assert table["enhancer's threads"][0] >= table["enhancer's threads"][1] >= 1
    times = table[["enhancer, ms", "detector, ms"]]
    assert (times > 0).all(axis=None)
    ratio = times["enhancer, ms"] / times["detector, ms"]
    assert list(table["enhancer per detector"]) == pytest.approx(list(ratio))


@pytest.mark.parametrize("config", [SMALL, FOLDED], ids=["published", "folded"])
def test_every_measure_can_be_taken_back(config: GLAREConfig) -> None:
    """Each form gives the same image, by modules of which some compute in another way."""
    torch.manual_seed(0)
    model = GLARE(config)
    randomise(model)
    model.eval()
    low = torch.rand(1, 3, 40, 36) * 0.3
    with torch.no_grad():
        expected = straightforward(model)(pad(low, model.config.stride)[0])[..., :36]
    classes = {type(module) for module in model.optimize().modules()}
    for name, measure in MEASURES.items():
        form = measure.without(model)
        with torch.no_grad():
            torch.testing.assert_close(form(low), expected, rtol=0, atol=1e-4)
        assert {type(module) for module in form.modules()} - classes, name
        bytes_saved = measure.saved(model, 40, 36)
        assert bytes_saved.moved >= 0
        assert bytes_saved.held >= 0
