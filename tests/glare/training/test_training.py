"""The three stages on a toy network and toy pictures, from the command line."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glare import weights
from glare.cli import main
from glare.data.overlap import fingerprints
from glare.metrics import LPIPS
from glare.model import GLARE
from glare.training.discriminator import PatchDiscriminator, adaptive_weight
from glare.training.losses import Restoration, build_by_name, colour_loss, detail_loss, ms_ssim
from glare.training.stages import CodebookStage, FlowStage, FusionStage, Logs, build_stage
from glare.transform import GLAREEnhance
from tests.glare.conftest import SMALL


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    for i in range(4):
        noise = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(i))
        picture = Image.fromarray((255 * noise).byte().movedim(0, -1).numpy()).resize(
            (64, 48), Image.Resampling.BICUBIC
        )
        for name, scale in (("low", 0.1), ("high", 1.0)):
            (root / name).mkdir(exist_ok=True)
            picture.point(lambda v, scale=scale: round(v * scale)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    weights.save(GLARE(SMALL), folder)
    return folder


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LPIPS's network with chance weights in the file that somebody would give."""
    import lpips

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).state_dict(), file)
    return file


def arguments(stage: str, pairs: Path, init: Path, out: Path, steps: int, *more: str) -> list[str]:
    words = f"train {stage} --pairs {pairs} --init {init} --out {out} --steps {steps} --batch 2 --crop 32 --workers 0"
    return [*words.split(), "--dtype", "float32", *more]


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


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


def test_terms_of_frozen_networks_and_a_discriminator(
    pairs: Path, start: Path, alexnet: Path, tmp_path: Path
) -> None:
    lpips = ["--perceptual", str(alexnet)]
    assert (
        main(arguments("codebook", pairs, start, tmp_path / "1", 2, *lpips, "--adversarial-after", "1")) == 0
    )
    assert main(arguments("flow", pairs, tmp_path / "1/last", tmp_path / "2", 2)) == 0
    features = f"{__name__}:halves:2"
    words = arguments("fusion", pairs, tmp_path / "2/last", tmp_path / "3", 2, *lpips)
    objective = f"{__name__}:brightness:a/b=0.5"
    assert main([*words, "--features", features, "--objective", objective]) == 0
    first, _, third = (entry["command"] for entry in weights.history(tmp_path / "3/last"))
    assert "--perceptual alex.pth --adversarial-after 1" in first
    assert f"--features {features} --objective {__name__}:brightness:b=0.5" in third


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("flow", ["--perceptual", "x"]),
        ("codebook", ["--features", "x"]),
        ("flow", ["--objective", "x"]),
        ("fusion", ["--adversarial-after", "1"]),
    ],
)
def test_terms_that_a_stage_does_not_have(
    stage: str, words: list[str], pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(stage, pairs, start, tmp_path, 1, *words)) == 1
    told = capsys.readouterr().err
    assert words[0] in told
    assert "belongs to" in told


@pytest.mark.parametrize("stage", ["codebook", "fusion"])
def test_two_processes_train_what_one_does(stage: str, pairs: Path, start: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments(stage, pairs, start, one, 8), "--batch", "4"]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*launch, "-m", "glare", *arguments(stage, pairs, start, two, 8)]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    a, b = (weights.load(out / "last").state_dict() for out in (one, two))
    before = weights.load(start).state_dict()
    moved = max((a[key] - before[key]).abs().max() for key in a)
    apart = max((a[key] - b[key]).abs().max() for key in a)
    assert apart < 0.05 * moved
    (entry,) = weights.history(two / "last")
    assert entry["crops"] == 32
    assert entry["command"].startswith("torchrun --nproc-per-node 2 -m glare train ")

    words[words.index("--steps") + 1] = "10"
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    (entry,) = weights.history(two / "last")
    assert (entry["steps"], entry["crops"]) == (10, 40)


def test_stages_need_the_one_before(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "flow", "--pairs", str(pairs), "--out", str(tmp_path)]
    assert main(words) == 1
    assert "starts from the weights of the stage before: give --init" in capsys.readouterr().err


def test_stage_iii_needs_a_trained_flow(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.save(GLARE(SMALL), tmp_path / "first", history=[{"stage": "codebook"}])
    assert main(arguments("fusion", pairs, tmp_path / "first", tmp_path / "third", 2)) == 1
    assert "first holds codebook alone" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"all three stages but .*first was trained for codebook only"):
        GLAREEnhance(tmp_path / "first")


def test_loss_that_is_not_finite_stops_and_is_named(
    pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = weights.load(start)
    with torch.no_grad():
        model.fusion.mix["0"].theta.fill_(float("nan"))
    weights.save(model, tmp_path / "broken")
    assert main(arguments("fusion", pairs, tmp_path / "broken", tmp_path / "run", 5)) == 1
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


def test_terms_of_the_weights_to_start_from_go_on(pairs: Path, tmp_path: Path) -> None:
    words = arguments("fusion", pairs, Path("glare-tiny"), tmp_path, 1, "--val", str(pairs))
    assert main(words) == 0
    packaged, own = weights.terms("glare-tiny"), weights.terms(tmp_path / "best")
    assert packaged is not None
    assert own is not None
    assert "research and non-commercial use only" in packaged
    assert own.endswith(packaged)
    assert main([*words, "--out", str(tmp_path / "other"), "--terms", "mine"]) == 0
    assert weights.terms(tmp_path / "other/best") == "mine"


def test_folder_of_another_run(
    pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments("fusion", pairs, start, tmp_path, 1)) == 0
    assert main(arguments("flow", pairs, start, tmp_path, 1)) == 1
    assert "holds another run: stage fusion. This one is" in capsys.readouterr().err


class TestStages:
    def test_dead_codes_start_again(self) -> None:
        stage = CodebookStage(GLARE(SMALL))
        stage.unused.fill_(stage.revive_after)
        latent = torch.randn(1, 3, 2, 2)
        stage._revive(latent, torch.tensor([[[0, 1], [2, 3]]]))
        codes = stage.model.codebook.quantizer.embedding.weight[4:]
        distances = torch.cdist(codes, latent.flatten(2)[0].T)
        assert distances.amin(1).max() < 2e-3

    @pytest.mark.parametrize(
        ("build", "moving"),
        [
            (CodebookStage, {"codebook"}),
            (FlowStage, {"condition", "flow"}),
            (lambda m: FusionStage(m, joint=False), {"fusion"}),
            (lambda m: FusionStage(m, joint=True), {"fusion", "condition", "flow"}),
        ],
    )
    def test_gradient_reaches_what_is_trained_and_no_more(
        self, build: Callable[[GLARE], torch.nn.Module], moving: set[str]
    ) -> None:
        stage = build(GLARE(SMALL))
        loss, _ = stage(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
        loss.backward()
        names = {n.split(".")[0] for n, p in stage.model.named_parameters() if p.grad is not None}
        assert names == moving

    def test_unknown_stage(self) -> None:
        with pytest.raises(ValueError, match="out of codebook, flow, fusion but got 'four'"):
            build_stage("four", GLARE(SMALL))


class TestLosses:
    def test_ms_ssim_of_equal_and_of_unlike_images(self) -> None:
        image = torch.rand(2, 3, 64, 64)
        assert ms_ssim(image, image).item() == pytest.approx(1.0, abs=1e-5)
        assert ms_ssim(torch.rand(2, 3, 64, 64), image).item() < 0.3

    @pytest.mark.parametrize("side", [32, 64, 180])
    def test_any_crop_has_finite_gradients(self, side: int) -> None:
        image = (1 - torch.rand(1, 3, side, side)).requires_grad_()
        Restoration()(image, 1 - image.detach())[0].backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()

    def test_detail_loss_sees_grain_where_it_is_too_dark(self) -> None:
        torch.manual_seed(0)
        reference = torch.rand(2, 3, 64, 48)
        grain = 0.1 * torch.randn_like(reference)
        assert detail_loss(reference - 0.3, reference).item() == pytest.approx(0.0, abs=1e-6)
        # To a plain L1 the grain of a region that is too dark all over is nothing.
        shift = 1.0
        with_grain, without = (reference - shift + g for g in (grain, 0 * grain))
        assert F.l1_loss(with_grain, reference).item() == pytest.approx(shift, abs=1e-2)
        assert detail_loss(with_grain, reference) > detail_loss(without, reference) + 0.05

    def test_colour_loss_sees_colour_alone(self) -> None:
        image = torch.rand(2, 3, 32, 32)
        assert colour_loss(image + 0.3, image).item() == pytest.approx(0.0, abs=1e-6)
        # Red alone by 0.3: 0.2 from its grey, the others 0.1 each.
        tinted = image + torch.tensor([0.3, 0.0, 0.0]).view(3, 1, 1)
        assert colour_loss(tinted, image).item() == pytest.approx((0.2 + 0.1 + 0.1) / 3, rel=1e-5)

    def test_frozen_networks_add_their_share(self, alexnet: Path) -> None:
        image, reference = torch.rand(2, 2, 3, 64, 64).unbind()
        image.requires_grad_()
        lpips, features = LPIPS(alexnet), build_by_name(f"{__name__}:halves:2")
        plain, _ = Restoration()(image, reference)
        restoration = Restoration(lpips, features)
        loss, parts = restoration(image, reference)
        coarse, wanted = (F.avg_pool2d(t, 2) for t in (image, reference))
        distance = (coarse - wanted).abs().mean() / wanted.mean()
        perceived = lpips(image, reference).mean()
        expected = plain + restoration.perceptual_weight * perceived + restoration.features_weight * distance
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(parts["features"], distance.detach())
        loss.backward()
        assert image.grad is not None
        assert image.grad.count_nonzero() == image.numel()
        # Of a large batch they see half.
        many = torch.rand(12, 3, 64, 64)
        seen: list[int] = []
        Restoration(features=lambda images: seen.append(len(images)) or [images])(many, many.flip(0))
        assert seen == [6, 6]
        # Frozen: nothing of them is trained or written into a checkpoint.
        assert not list(restoration.parameters())
        assert not restoration.state_dict()
        assert all(p.grad is None for p in lpips.parameters())

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("torch", "MODULE:CALLABLE"),
            ("torch:", "MODULE:CALLABLE"),
            ("torch:no_such", "callable 'no_such'"),
        ],
    )
    def test_features_that_are_not_there(self, name: str, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            build_by_name(name)


def halves(factor: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    return lambda images: [F.avg_pool2d(images, int(factor))]


def brightness(argument: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]:
    wanted = float(argument.partition("=")[2])
    return lambda restore: (restore(torch.rand(1, 3, 32, 32) / 8).mean() - wanted).abs()


@pytest.mark.parametrize("joint", [False, True])
def test_an_objective_moves_what_is_trained(joint: bool) -> None:
    torch.manual_seed(0)
    model = GLARE("tiny")
    stage = FusionStage(model, joint=joint, objective=brightness("=0.5")).train()
    stage.objective_share, stage.likelihood = 1.0, 0.0
    low, high = torch.rand(2, 3, 32, 32) / 8, torch.rand(2, 3, 32, 32)
    gradients = []
    for weight in (0.0, 1.0):
        stage.objective_weight = weight
        torch.manual_seed(1)
        random.seed(1)
        loss, logs = stage(low, high)
        loss.backward()
        gradients.append([p.grad.clone() for p in stage.parameters() if p.grad is not None])
        stage.zero_grad()
    assert 0 < float(logs["objective"]) < 1
    assert any(not torch.equal(without, with_it) for without, with_it in zip(*gradients, strict=True))
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert moved == ({"fusion", "condition", "flow"} if joint else {"fusion"})
    assert "objective" not in stage.eval()(low, high)[1]


class TestDiscriminator:
    def test_learns_to_tell_noise_from_its_absence(self) -> None:
        torch.manual_seed(0)
        judge = PatchDiscriminator(8)
        optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
        flat = 0.5 * torch.ones(2, 3, 32, 32)
        for _ in range(20):
            loss = judge.own_loss(
                flat + 0.3 * torch.randn(2, 3, 32, 32), flat + 0.01 * torch.randn(2, 3, 32, 32)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert judge(flat).mean() > 0.5
        assert judge(flat + 0.3 * torch.randn_like(flat)).mean() < -0.5

    def test_each_side_has_its_own_gradient(self) -> None:
        judge = PatchDiscriminator(8)
        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        judge.own_loss(image, torch.rand(1, 3, 32, 32)).backward()
        assert image.grad is None
        judge.zero_grad()
        judge.loss_for(image).backward()
        assert image.grad is not None
        assert all(p.grad is None for p in judge.parameters())

    def test_adaptive_weight_is_the_ratio_of_the_pulls(self) -> None:
        last = torch.ones(3, requires_grad=True)
        weight = adaptive_weight(6 * last.sum(), 2 * last.sum(), last)
        assert weight.item() == pytest.approx(3.0, rel=1e-3)

    def test_the_decoder_listens_after_the_warm_up(self) -> None:
        stage = CodebookStage(GLARE(SMALL), adversarial_after=2)
        image = torch.rand(2, 3, 32, 32)
        told = [stage(image, image)[1] for _ in range(3)]
        assert ["adversarial_weight" in logs for logs in told] == [False, False, True]
        assert all("discriminator" in logs for logs in told)
        loss, _ = stage(image, image)
        loss.backward()
        assert all(p.grad is not None for p in stage.discriminator.parameters())
