"""experiments/flicker.py: what it measures, on clips whose flicker is known, and a run on a network of any weights."""

from pathlib import Path

import pytest
import torch

from glare import GLARE, GLAREEnhance, weights
from tests.glare.conftest import SMALL
from tests.scripts import load_script

flicker = load_script("flicker")


def test_a_pan_alone_is_no_error_and_a_change_of_tone_is() -> None:
    _, light = flicker.clip(4, anew=False)
    still = flicker.warped_error(light, light)
    assert still < 2.0  # the flow is no more exact
    brighter = (light.int() + 20 * (torch.arange(4) % 2)[:, None, None, None]).clamp(0, 255).to(torch.uint8)
    assert flicker.warped_error(brighter, light) == pytest.approx(20, abs=3)


def test_grain_lies_on_the_scene_or_is_drawn_anew() -> None:
    step = flicker.STEP
    for anew in (False, True):
        dark, light = flicker.clip(3, anew=anew)
        assert dark.shape == light.shape == (3, 3, *flicker.SIZE)
        assert dark.float().mean() < light.float().mean() / 3
        assert torch.equal(dark[1, ..., :-step], dark[0, ..., step:]) != anew


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    folder = weights.save(GLARE(SMALL), tmp_path / "network").parent
    chart = tmp_path / "chart.svg"
    monkeypatch.setattr(flicker, "SIZE", (40, 64))
    monkeypatch.setattr(
        "sys.argv", ["flicker.py", "--weights", str(folder), "--frames", "3", "--chart", str(chart)]
    )
    flicker.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [tuple(row.split(" | ")[:2]) for row in rows] == [
        (f"| {clip}", form)
        for clip in ("tone", "grain")
        for form in ("single frames", "steadied", "of one tone")
    ]
    assert "<svg" in chart.read_text()


def test_steadying_keeps_the_tone_and_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packaged weights on a pan with a blinking lamp: a third of the flicker, and the frames no worse."""
    monkeypatch.setattr(flicker, "SIZE", (96, 144))
    table, _ = flicker.measure(GLAREEnhance(), 10)
    table = table.set_index(["clip", "frames"])
    for clip in ("tone", "grain"):
        single, steadied, floor = (
            table.loc[(clip, form)] for form in ("single frames", "steadied", "of one tone")
        )
        assert single["change of level"] > 5  # there is a flicker
        assert steadied["change of level"] <= single["change of level"] / 3
        grain = floor["warped error"] if clip == "grain" else 0.0
        assert steadied["warped error"] - grain <= (single["warped error"] - grain) / 3
    for definition in ("PSNR", "PSNR GT-mean"):
        quality = table[definition].unstack()
        assert (quality["steadied"] >= quality["single frames"] - 0.1).all()
