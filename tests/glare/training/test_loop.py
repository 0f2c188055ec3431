"""The three stages on a toy network and toy pictures, from the command line."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from glare import weights
from glare.cli import main
from glare.data.overlap import fingerprints
from glare.training.stages import CodebookStage, FlowStage, FusionStage, Logs
from tests.glare.training.conftest import arguments, losses


def test_three_stages_one_after_the_other(pairs: Path, start: Path, tmp_path: Path) -> None:
    val = ["--val", str(pairs)]
    assert main(arguments("codebook", pairs, start, tmp_path / "1", 40, *val)) == 0
    assert main(arguments("flow", pairs, tmp_path / "1/best", tmp_path / "2", 20, *val)) == 0
    assert main(arguments("fusion", pairs, tmp_path / "2/best", tmp_path / "3", 20, *val)) == 0
    assert main(arguments("fusion", pairs, tmp_path / "3/best", tmp_path / "4", 40, "--joint", *val)) == 0

    first, last = (weights.load(tmp_path / name / "best") for name in ("3", "4"))
    # Stage III leaves the other stages alone; the joint pass moves the second but never the codebook.
    for stage, model in (("2", first), ("4", last)):
        before = weights.load(tmp_path / "2/best").state_dict()
        moved = {k.split(".")[0] for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
        assert moved == ({"fusion"} if stage == "2" else {"fusion", "condition", "flow"})

    history = weights.history(tmp_path / "4/best")
    assert [entry["stage"] for entry in history] == ["codebook", "flow", "fusion", "fusion, joint"]
    assert str(tmp_path) not in json.dumps(history)
    # The pairs' fingerprints are told once.
    assert weights.trained_on(tmp_path / "4/best") == fingerprints(sorted((pairs / "high").iterdir()))
    assert [len(entry["hashes"]) for entry in history] == [4, 0, 0, 0]
    card = (tmp_path / "4/best/README.md").read_text()
    assert "PSNR GT-mean" in card
    # Four pairs high; input, decoded codes, image and reference wide.
    assert Image.open(tmp_path / "4/sheets/000040.png").size == (4 * 322 + 2, 4 * 242 + 2)
    untouched, ours = (
        float(line.split("|")[2]) for line in card.splitlines() if line.startswith(("| untou", "| GLARE"))
    )
    assert ours > untouched


@pytest.mark.parametrize("stage", ["codebook", "flow", "fusion"])
def test_loss_falls(stage: str, pairs: Path, start: Path, tmp_path: Path) -> None:
    assert main(arguments(stage, pairs, start, tmp_path, 60)) == 0
    curve = losses(tmp_path)
    assert curve[60] < curve[10]


def test_goes_on_as_if_it_had_not_been_killed(
    pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = arguments("fusion", pairs, start, parts, 80, "--joint", "--checkpoint-minutes", "0")
    process = subprocess.Popen([sys.executable, "-m", "glare", *words], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (parts / "log.jsonl").exists() or len(losses(parts)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    capsys.readouterr()
    assert 20 <= max(losses(parts)) < 80
    for out in (parts, whole):
        assert main(arguments("fusion", pairs, start, out, 80, "--joint")) == 0
    assert losses(parts) == losses(whole)
    assert f"{parts} goes on at step " in capsys.readouterr().out
    a, b = (weights.load(out / "last").state_dict() for out in (parts, whole))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("stage", ["codebook", "fusion"])
def test_two_processes_train_what_one_does(stage: str, pairs: Path, start: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments(stage, pairs, start, one, 8), "--batch", "4"]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*launch, "-m", "glare", *arguments(stage, pairs, start, two, 8)]
    subprocess.run(words, check=True, timeout=600)
    a, b = (weights.load(out / "last").state_dict() for out in (one, two))
    before = weights.load(start).state_dict()
    moved = max((a[key] - before[key]).abs().max() for key in a)
    apart = max((a[key] - b[key]).abs().max() for key in a)
    assert apart < 0.05 * moved
    (entry,) = weights.history(two / "last")
    assert entry["crops"] == 32
    assert entry["command"].startswith("torchrun --nproc-per-node 2 -m glare train ")

    words[words.index("--steps") + 1] = "10"
    subprocess.run(words, check=True, timeout=600)
    (entry,) = weights.history(two / "last")
    assert (entry["steps"], entry["crops"]) == (10, 40)


def test_loss_that_is_not_finite_stops_and_is_named(
    pairs: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(self: FusionStage, low: torch.Tensor, high: torch.Tensor) -> None:
        self.model.fusion.mix["0"].theta.fill_(float("nan"))

    monkeypatch.setattr(FusionStage, "start", torch.no_grad()(broken))  # no file of weights holds a NaN
    assert main(arguments("fusion", pairs, start, tmp_path / "run", 5)) == 1
    told = capsys.readouterr().err
    assert "The loss is nan at step 0, first in layer model.fusion.mix.0, on the images " in told
    assert str(pairs / "low") in told


def test_gradient_that_is_not_finite_stops_before_the_step(
    pairs: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    forward = CodebookStage.forward

    def broken(self: CodebookStage, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, Logs]:
        loss, logs = forward(self, low, high)
        weight = self.model.codebook.encoder.conv_in.weight
        return loss + (0.0 * weight.sum()).sqrt() if self.step > 2 else loss, logs

    words = arguments("codebook", pairs, start, tmp_path, 5, "--checkpoint-minutes", "0")
    monkeypatch.setattr(CodebookStage, "forward", broken)
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "The gradient is nan at step 2, on the images " in told
    assert str(pairs / "low") in told
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2
    assert all(tensor.isfinite().all() for tensor in state["stage"].values())
    monkeypatch.undo()
    assert main(words) == 0  # it goes on from there


def test_the_last_third_is_of_larger_crops(
    pairs: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    forward = FlowStage.forward

    def watched(self: FlowStage, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, Logs]:
        seen.append(tuple(low.shape))
        return forward(self, low, high)

    monkeypatch.setattr(FlowStage, "forward", watched)
    words = [*arguments("flow", pairs, start, tmp_path, 6, "--last-crop", "64"), "--batch", "8"]
    assert main(words) == 0
    assert seen == [(8, 3, 32, 32)] * 4 + [(2, 3, 64, 64)] * 2
    (entry,) = weights.history(tmp_path / "last")
    assert entry["crops"] == 48  # as many pixels
    assert "--last-crop 64" in entry["command"]
    assert main([*words, "--last-crop", "50"]) == 1


@pytest.mark.parametrize("stage", ["codebook", "flow"])
def test_a_run_of_which_only_the_weights_are_left_goes_on(
    stage: str, pairs: Path, start: Path, tmp_path: Path
) -> None:
    assert main(arguments(stage, pairs, start, tmp_path / "whole", 120)) == 0
    assert main(arguments(stage, pairs, start, tmp_path / "half", 60)) == 0
    rest = [*arguments(stage, pairs, tmp_path / "half/last", tmp_path / "rest", 120), "--first-step", "60"]
    assert main(rest) == 0
    curve, planned = losses(tmp_path / "rest"), losses(tmp_path / "whole")
    assert min(curve) == 70
    assert max(curve) == 120
    # Nothing that a stage prepares on its first batch is undone, and the rate is where it was to be.
    assert curve[70] < losses(tmp_path / "half")[10]
    rates = [
        json.loads((tmp_path / name / "log.jsonl").read_text().splitlines()[-1])["lr"]
        for name in ("whole", "rest")
    ]
    assert rates[0] == rates[1]
    assert planned.keys() >= curve.keys()
    first, second = weights.history(tmp_path / "rest/last")
    assert (first["steps"], second["steps"], second["crops"]) == (60, 60, 120)
    assert "--first-step 60" in second["command"]


def test_first_step_needs_weights_of_the_stage(
    pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("flow", pairs, start, tmp_path / "1", 2)) == 0
    for stage, steps, why in (
        ("codebook", "1", "stage codebook, but"),
        ("flow", "4", "less than 4, the steps, but got 4"),
    ):
        words = arguments(stage, pairs, tmp_path / "1/last", tmp_path / "2", 4, "--first-step", steps)
        assert main(words) == 1
        assert why in capsys.readouterr().err


def test_seed_fixes_everything(pairs: Path, tmp_path: Path) -> None:
    words = f"train codebook --pairs {pairs} --steps 1 --batch 2 --crop 32 --workers 0 --dtype float32"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(99)
        assert main([*words.split(), "--seed", str(seed), "--out", str(tmp_path / name)]) == 0
    states = [weights.load(tmp_path / name / "last").state_dict() for name in "abc"]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(
        states[0]["codebook.encoder.conv_in.weight"], states[2]["codebook.encoder.conv_in.weight"]
    )


def test_folder_of_another_run(
    pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("fusion", pairs, start, tmp_path, 1)) == 0
    assert main(arguments("flow", pairs, start, tmp_path, 1)) == 1
    assert "holds another run: stage fusion. This one is" in capsys.readouterr().err
