"""The enhancer inside ultralytics: what the detector sees, and what it teaches."""

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from detection import EXDARK_CLASSES, darken, sample_set
from detection.data.core import Pixels
from detection.detectors.ultralytics import (
    WEIGHTS,
    YOLO,
    built_in,
)
from detection.hooks import (
    features,
    predictor_behind,
    put_in_front,
    trainer_behind,
    validator_behind,
    with_all_cores,
)
from glare import GLARE, GLAREEnhance
from glare.steady import Steady

WIDTH, HEIGHT = 96, 64
Network = dict[str, Tensor]


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four dark photographs with their boxes, as ultralytics reads them; returns the YAML."""
    root = tmp_path_factory.mktemp("night")
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for sample in darken(sample_set(), "dark").samples[2:]:
        image, name = sample.load(), Path(sample.name).stem
        height, width = image.shape[:2]
        Image.fromarray(image).resize((WIDTH, HEIGHT)).save(root / "images" / f"{name}.png")
        boxes = sample.boxes / [width, height, width, height]
        lines = [
            f"{label} {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}\n"
            for (x1, y1, x2, y2), label in zip(boxes, sample.labels, strict=True)
        ]
        (root / "labels" / f"{name}.txt").write_text("".join(lines))
    described = f"path: {root}\ntrain: images\nval: images\nnames: {list(EXDARK_CLASSES)}\n"
    (root / "data.yaml").write_text(described)
    return root / "data.yaml"


@pytest.fixture
def files(night: Path) -> list[Path]:
    return sorted((night.parent / "images").iterdir())


@pytest.fixture
def dark(files: list[Path]) -> list[Pixels]:
    return [np.asarray(Image.open(file)) for file in files]


def detector() -> Any:
    """The packaged detector as the ``YOLO`` of a user."""
    yolo = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
    yolo.model = built_in().network
    return yolo


def watch(network: Any) -> list[Tensor]:
    """What reaches the detector's first layer from now on, in copies of the network too."""
    seen: list[Tensor] = []
    network.model[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def alone(enhance: GLAREEnhance, image: Any) -> Any:
    """The image enhanced, by as many threads as in front of a detector, on which the last bit hangs."""
    return with_all_cores(enhance)(image)


def bgr(image: Pixels) -> Pixels:
    return np.ascontiguousarray(image[..., ::-1])


def stacked(images: list[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def weights_of(model: GLARE) -> Network:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(one: Network, other: Network) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestPredict:
    @pytest.mark.parametrize("source", ["files", "arrays", "tensor"])
    def test_enhanced_frame_is_what_the_detector_saw(
        self, source: str, files: list[Path], dark: list[Pixels]
    ) -> None:
        enhance, yolo = GLAREEnhance(), detector()
        seen = watch(yolo.model)
        put_in_front(yolo, enhance)
        sources: dict[str, Any] = {
            "files": files,
            "arrays": [bgr(image) for image in dark],
            "tensor": stacked(dark),
        }
        results = yolo.predict(sources[source], imgsz=WIDTH, batch=4, conf=0.001, verbose=False)
        expected = [alone(enhance, image) for image in dark]
        # A tensor is not rounded to the 255 levels of an image on the way, but for its `orig_img`, cut off.
        rounding = 0 if source != "tensor" else 1
        torch.testing.assert_close(seen[-1], stacked(expected), rtol=0, atol=rounding * 0.51 / 255)
        for result, image in zip(results, expected, strict=True):
            assert np.abs(bgr(result.orig_img).astype(int) - image).max() <= rounding
            assert len(result.boxes) > 0

    def test_boxes_are_in_pixels_of_the_image_that_came(self) -> None:
        cat = darken(sample_set(), "dark").samples[3]
        size = (225, 150)
        image = np.asarray(Image.fromarray(cat.load()).resize(size))
        enhance, yolo = GLAREEnhance(), detector()
        plain = yolo.predict(bgr(alone(enhance, image)), imgsz=192, verbose=False)[0]
        put_in_front(yolo, enhance)
        result = yolo.predict(bgr(image), imgsz=192, verbose=False)[0]
        assert torch.equal(result.boxes.data, plain.boxes.data)
        box = result.boxes.xyxy[result.boxes.conf.argmax()].numpy()
        np.testing.assert_allclose(box, cat.boxes[0] * size[0] / cat.load().shape[1], atol=25)
        assert box[2] > 192  # beyond the width at which the network looked

    def test_another_one_takes_its_place(self, dark: list[Pixels]) -> None:
        yolo = detector()
        seen = watch(yolo.model)
        for fidelity in (0.0, 2.0):  # the second time the predictor is there already
            enhance = GLAREEnhance(fidelity=fidelity)
            put_in_front(yolo, enhance)
            yolo.predict(bgr(dark[0]), imgsz=WIDTH, verbose=False)
            torch.testing.assert_close(seen[-1], stacked([alone(enhance, dark[0])]), rtol=0, atol=0)

    def test_at_network_size(self, dark: list[Pixels]) -> None:
        enhance, yolo = GLAREEnhance(), detector()
        seen = watch(yolo.model)
        yolo.predict(bgr(dark[0]), imgsz=64, verbose=False)
        unenhanced = seen[-1]
        result = yolo.predict(
            bgr(dark[0]), imgsz=64, conf=0.001, predictor=predictor_behind(enhance), verbose=False
        )[0]
        assert unenhanced.shape == (1, 3, 64, 64)  # 64 by 48 and grey bars
        torch.testing.assert_close(seen[-1], alone(enhance, unenhanced), rtol=0, atol=0)
        assert np.array_equal(bgr(result.orig_img), dark[0])
        assert result.boxes.xyxy[:, 2].max() > 64


def test_val_goes_through_the_enhancer(night: Path, tmp_path: Path) -> None:
    enhance, yolo = GLAREEnhance(), detector()
    seen = watch(yolo.model)
    settings = {"data": str(night), "imgsz": 64, "batch": 4, "plots": False, "verbose": False}
    settings |= {"project": str(tmp_path), "exist_ok": True, "device": "cpu"}
    yolo.val(**settings)
    unenhanced = seen[-1]
    metrics = yolo.val(validator=validator_behind(enhance), **settings)
    assert len(unenhanced) == 4
    torch.testing.assert_close(seen[-1], alone(enhance, unenhanced), rtol=0, atol=0)
    assert metrics.nt_per_class.sum() == 8


def settings(night: Path, out: Path, **more: Any) -> dict[str, Any]:
    common = {"data": str(night), "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0, "plots": False}
    common |= {
        "nbs": 4,
        "warmup_epochs": 0,
        "project": str(out),
        "name": "run",
        "epochs": 1,
        "verbose": False,
    }
    return {**common, **more}


class Run:
    """One training through an enhancer, and what was seen on the way."""

    def __init__(self, night: Path, out: Path, enhance: GLAREEnhance, epochs: int = 1) -> None:
        self.before = weights_of(enhance.model)
        self.enhanced: list[tuple[Tensor, Tensor]] = []
        self.seen: dict[str, list[Tensor]] = {}
        self.gradients: dict[str, Tensor] = {}
        self.dark: list[Tensor] = []
        self.groups: list[dict[str, Any]] = []
        self.after_epoch: list[Network] = []
        run = self

        class Trainer(trainer_behind(enhance)):  # type: ignore[misc]
            def validate(self) -> Any:
                run.after_epoch.append(weights_of(enhance.model))
                metrics, fitness = super().validate()
                for network in (self.model, self.ema.ema):  # a checkpoint takes no hooks
                    network.model[0]._forward_pre_hooks.clear()
                return metrics, fitness - self.epoch  # so that the first epoch is the best

            def preprocess_batch(self, batch: dict[str, Any]) -> Any:
                batch = super().preprocess_batch(batch)
                self.plot_training_samples(batch, 0)  # what `plots=True` does
                return batch

        def start(trainer: Any) -> None:
            self.seen = {"train": watch(trainer.model), "val": watch(trainer.ema.ema)}
            self.groups = [{**group} for group in trainer.optimizer.param_groups]

        enhance.register_forward_hook(lambda _, inputs, out: self.enhanced.append((inputs[0], out.detach())))
        if enhance.trainable:
            enhance.network.register_forward_pre_hook(self.keep_the_dark_image)
            for name, parameter in enhance.network.named_parameters():
                parameter.register_hook(lambda gradient, name=name: self.gradients.update({name: gradient}))
        self.yolo = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        self.yolo.add_callback("on_train_start", start)
        self.stopped = out / "stopped" / "weights"
        self.yolo.add_callback("on_model_save", self.keep_the_first_checkpoint)
        self.yolo.train(trainer=Trainer, **settings(night, out, epochs=epochs))
        self.folder = out / "run" / "weights"

    def keep_the_first_checkpoint(self, trainer: Any) -> None:
        """What would be there if the training were killed now."""
        if trainer.epoch == 0:
            shutil.copytree(trainer.wdir, self.stopped)

    def keep_the_dark_image(self, _: Any, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if not torch.is_grad_enabled():
            return None
        self.dark.append(inputs[0].requires_grad_())
        return (self.dark[-1],)


@pytest.fixture(scope="module")
def learning(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(night, tmp_path_factory.mktemp("learning"), GLAREEnhance(trainable=True), epochs=2)


@pytest.fixture(scope="module")
def frozen_enhance() -> GLAREEnhance:
    return GLAREEnhance()


@pytest.fixture(scope="module")
def frozen(night: Path, tmp_path_factory: pytest.TempPathFactory, frozen_enhance: GLAREEnhance) -> Run:
    return Run(night, tmp_path_factory.mktemp("frozen"), frozen_enhance)


class TestTrain:
    def test_training_and_validation_see_enhanced_images(self, frozen: Run) -> None:
        results = [out for _, out in frozen.enhanced]
        # One batch of training, one of validation; one more for `best.pt`, which is another network.
        assert len(results) == 3
        assert [len(frozen.seen[part]) for part in ("train", "val")] == [1, 1]
        assert torch.equal(frozen.seen["train"][0], results[0])
        assert torch.equal(frozen.seen["val"][0], results[1])
        assert all(out.mean() > 1.5 * given.mean() for given, out in frozen.enhanced[1:])  # brighter

    def test_samples_can_be_drawn(self, learning: Run) -> None:
        assert (learning.folder.parent / "train_batch0.jpg").is_file()

    def test_frozen_stays_as_it_is(self, frozen: Run, frozen_enhance: GLAREEnhance) -> None:
        assert equal(frozen.before, weights_of(frozen_enhance.model))
        assert sorted(group["param_group"] for group in frozen.groups) == ["bias", "bn", "weight"]
        assert sorted(file.name for file in frozen.folder.iterdir()) == ["best.pt", "last.pt"]

    def test_gradient_reaches_the_dark_image(self, learning: Run) -> None:
        assert len(learning.dark) == 2  # a batch in each epoch
        for image in learning.dark:
            assert image.grad is not None
            assert image.grad.isfinite().all()
            assert image.grad.flatten(1).abs().amax(1).gt(0).all()

    def test_gradient_reaches_the_parameters(self, learning: Run) -> None:
        parts = ("condition.encoder", "condition.mean", "flow", "fusion.decoder", "fusion.warp", "fusion.mix")
        for part in parts:
            gradients = [g for name, g in learning.gradients.items() if name.startswith(part)]
            assert gradients, part
            assert all(gradient.isfinite().all() for gradient in gradients)
            assert any(gradient.abs().max() > 0 for gradient in gradients), part

    def test_parameters_learn_in_a_group_of_their_own(self, learning: Run) -> None:
        *others, own = learning.groups
        assert own["param_group"] == "enhancer"
        assert own["weight_decay"] == 0
        assert len(own["params"]) == len(learning.before)
        assert own["initial_lr"] == pytest.approx(0.1 * others[0]["initial_lr"])
        moved = [name for name in learning.before if name in learning.gradients]
        after = learning.after_epoch[0]
        still = [name for name in moved if torch.equal(after[name], learning.before[name])]
        # Where all rectifiers of a coupling are off, no gradient passes.
        assert len(still) < 0.02 * len(moved)

    def test_saved_beside_the_checkpoints(self, learning: Run) -> None:
        first, second = learning.after_epoch
        assert not equal(first, second)
        for folder, expected in {"best_enhancer": first, "last_enhancer": second}.items():
            assert equal(load_file(learning.folder / folder / "model.safetensors"), expected)
            assert equal(weights_of(GLARE.from_pretrained(learning.folder / folder)), expected)

    def test_best_detector_is_measured_behind_the_best_enhancer(self, learning: Run) -> None:
        best = GLAREEnhance(learning.folder / "best_enhancer")
        given, out = learning.enhanced[-1]
        torch.testing.assert_close(out, best(given), rtol=0, atol=1e-6)
        last = GLAREEnhance(learning.folder / "last_enhancer")
        assert (last(given) - out).abs().max() > 1e-4

    def test_goes_on_with_the_last_enhancer(self, learning: Run) -> None:
        class EnoughError(Exception):
            pass

        enhance = GLAREEnhance(trainable=True)  # as it was at first

        def look(trainer: Any) -> None:
            assert trainer.start_epoch == 1
            assert len(trainer.optimizer.state_dict()["state"]) > len(list(trainer.model.parameters()))
            assert equal(weights_of(enhance.model), learning.after_epoch[0])
            raise EnoughError

        yolo = YOLO(learning.stopped / "last.pt")
        yolo.add_callback("on_train_start", look)
        with pytest.raises(EnoughError):
            yolo.train(
                resume=True,
                save_dir=str(learning.stopped.parent),
                trainer=trainer_behind(enhance),
                plots=False,
            )


@pytest.fixture
def trainer(night: Path, tmp_path: Path) -> Callable[[GLAREEnhance], Any]:
    """Makes a trainer that has not started."""

    def make(enhance: GLAREEnhance) -> Any:
        overrides = {"model": str(WEIGHTS / "yolo26n-exdark.yaml"), **settings(night, tmp_path)}
        return trainer_behind(enhance)(overrides=overrides)

    return make


class TestPrecision:
    """Ultralytics calls `preprocess_batch` under its autocast."""

    def test_float32_under_autocast(self, trainer: Any, dark: list[Pixels]) -> None:
        enhance = GLAREEnhance()
        images = torch.from_numpy(np.stack(dark)).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = trainer(enhance).preprocess_batch({"img": images})["img"]
        assert torch.equal(out, enhance(images.float() / 255))

    def test_flow_and_code_search_even_where_the_rest_is_bfloat16(
        self, trainer: Any, dark: list[Pixels]
    ) -> None:
        enhance = GLAREEnhance(dtype=torch.bfloat16)
        model, kinds, conditions = enhance.model, set[torch.dtype](), []
        for layer in model.condition.modules():
            if isinstance(layer, torch.nn.Conv2d):
                layer.register_forward_hook(lambda _, inputs, out: kinds.add(out.dtype))
        model.condition.register_forward_hook(lambda _, inputs, out: conditions.append(out))
        searched: list[tuple[Tensor, Tensor]] = []
        quantizer = model.codebook.quantizer
        quantizer.register_forward_hook(lambda _, inputs, out: searched.append((inputs[0], out[1])))
        images = torch.from_numpy(np.stack(dark)).permute(0, 3, 1, 2)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            trainer(enhance).preprocess_batch({"img": images})
        assert kinds == {torch.bfloat16}
        latent, indices = searched[0]
        assert latent.dtype == torch.float32
        # As exact as without autocast: the flow computed in float32.
        with torch.no_grad():
            exact = model.flow.inverse(conditions[0].mean.float(), conditions[0].feature.float())[0]
        limit = model.config.latent_limit
        torch.testing.assert_close(latent, exact.clamp(-limit, limit), rtol=1e-5, atol=1e-5)
        distances = torch.cdist(
            latent.double().flatten(2).mT.flatten(0, 1), quantizer.embedding.weight.double()
        )
        assert (distances.argmin(1) == indices.flatten()).float().mean() > 0.999  # but for ties


class TestTrainer:
    @pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSProp", "MuSGD"])
    def test_every_optimiser_takes_the_enhancer(self, trainer: Any, name: str) -> None:
        enhance = GLAREEnhance(trainable=True)
        network = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect").model
        optimizer = trainer(enhance).build_optimizer(network, name=name, lr=0.01, decay=1e-3)
        before = weights_of(enhance.model)
        for parameter in enhance.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        own = optimizer.param_groups[-1]
        assert (own["lr"], own["weight_decay"]) == (pytest.approx(0.001), 0)
        assert not any(torch.equal(t, before[name]) for name, t in enhance.model.state_dict().items())

    def test_gradient_is_cut(self, trainer: Any) -> None:
        enhance = GLAREEnhance(trainable=True)
        made = trainer(enhance)
        made.model = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect").model
        made.optimizer = made.build_optimizer(made.model, name="SGD", lr=1.0, momentum=0.0)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for parameter in enhance.parameters():
            parameter.grad = 1e9 * torch.ones_like(parameter)
        for parameter in made.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        before = weights_of(enhance.model)
        made.scaler.scale(torch.zeros(1))  # makes the scale
        made.optimizer_step()
        steps = [(t - before[name]).double().square().sum() for name, t in enhance.model.state_dict().items()]
        assert torch.stack(steps).sum().sqrt().item() == pytest.approx(10 * 0.1, rel=1e-3)

    def test_not_on_several_devices(self, trainer: Any) -> None:
        made = trainer(GLAREEnhance(trainable=True))
        made.world_size = 2
        with pytest.raises(ValueError, match="one device to train an enhancer on but got 2"):
            made.build_optimizer(YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect").model)


def test_detection_loss_without_a_trainer(dark: list[Pixels]) -> None:
    """Ultralytics' own loss, differentiated by hand through the enhancer."""
    enhance = GLAREEnhance(trainable=True)
    network = built_in().network.train()
    network.args = SimpleNamespace(**network.args)  # as a trainer would set them
    images = stacked(dark[:2]).requires_grad_()
    batch = {
        "img": enhance(images),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[10.0], [5.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.6, 0.8], [0.5, 0.5, 0.7, 0.7]]),
    }
    loss, _ = network.loss(batch)
    loss.sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert images.grad.flatten(1).abs().amax(1).gt(0).all()
    gradients = [p.grad for p in enhance.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(gradient.isfinite().all() for gradient in gradients)
    # Where all rectifiers of a coupling are off, none passes.
    assert sum(bool(gradient.abs().max() > 0) for gradient in gradients) > 0.98 * len(gradients)


class TestFeatures:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """The packaged detector as a checkpoint: its batch norms have seen photographs."""
        model = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
        model.model = built_in().network
        model.save(tmp_path / "own.pt")
        return tmp_path / "own.pt"

    def test_maps_are_what_the_head_reads(self, file: Path) -> None:
        images = torch.rand(2, 3, 64, 96)
        read: list[torch.Tensor] = []
        network = YOLO(file, task="detect").model.eval()
        network.model[-1].register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0]))
        with torch.no_grad():
            network(images)
            maps = features(file)(images)
        assert [tuple(one.shape[2:]) for one in maps] == [(8, 12), (4, 6), (2, 3)]
        for one, other in zip(maps, read, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)

    def test_gradient_reaches_the_image_and_no_parameter(self, file: Path) -> None:
        images = torch.rand(1, 3, 64, 64, requires_grad=True)
        loss = torch.stack([one.square().mean() for one in features(file)(images)]).sum()
        reached, nodes = [], {loss.grad_fn}
        while nodes:
            node = nodes.pop()
            reached += [node.variable] if hasattr(node, "variable") else []
            nodes |= {before for before, _ in node.next_functions if before is not None}
        assert reached
        assert all(leaf is images for leaf in reached)
        loss.backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()
        assert images.grad.abs().max() > 0


class TestVideo:
    @pytest.fixture(scope="class")
    def enhance(self) -> GLAREEnhance:
        return GLAREEnhance("glare-tiny", device="cpu")

    @pytest.fixture
    def clip(self, dark: list[Pixels], tmp_path: Path) -> Path:
        return self.of_a_lamp(dark[0], tmp_path / "clip.mp4")

    def of_a_lamp(self, photograph: Pixels, path: Path) -> Path:
        """Write six frames of a photograph, in which a lamp blinks, 25 a second."""
        av = pytest.importorskip("av")
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=25, options={"crf": "4"})
            video.width, video.height = WIDTH, HEIGHT
            for number in range(6):
                pixels = photograph.copy()
                pixels[:12, :16] = 255 * (number % 2)
                file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            file.mux(video.encode(None))
        return path

    @pytest.mark.parametrize("batch", [1, 4])
    def test_frames_are_steadied(self, enhance: GLAREEnhance, clip: Path, batch: int) -> None:
        frames = [result.orig_img for result in detector().predict(clip, stream=True, verbose=False)]
        yolo = detector()
        put_in_front(yolo, enhance)
        for _ in range(2):  # the second time it begins anew
            seen = [result.orig_img for result in yolo.predict(clip, stream=True, verbose=False, batch=batch)]
            rgb = torch.stack([torch.from_numpy(bgr(frame)).permute(2, 0, 1) for frame in frames])
            expected = with_all_cores(Steady(enhance))(rgb, [number / 25 for number in range(6)])
            for one, other in zip(seen, expected.permute(0, 2, 3, 1).numpy(), strict=True):
                assert np.abs(bgr(one).astype(int) - other).max() <= 1
        still = [enhance(bgr(frame)) for frame in frames]
        corner = np.s_[HEIGHT // 2 :, WIDTH // 2 :]
        flicker = [
            np.abs(np.diff([image[corner].mean() for image in images])).mean() for images in (seen, still)
        ]
        assert flicker[0] < flicker[1] / 3

    def test_every_second_frame(self, enhance: GLAREEnhance, clip: Path) -> None:
        """Of which each is as late as it was filmed."""
        told = {"stream": True, "verbose": False, "vid_stride": 2}
        frames = [bgr(result.orig_img) for result in detector().predict(clip, **told)]
        yolo = detector()
        put_in_front(yolo, enhance)
        seen = [bgr(result.orig_img) for result in yolo.predict(clip, **told)]
        rgb = torch.stack([torch.from_numpy(frame.copy()).permute(2, 0, 1) for frame in frames])
        expected = with_all_cores(Steady(enhance))(rgb, [2 * number / 25 for number in range(len(frames))])
        assert len(seen) == 3
        for one, other in zip(seen, expected.permute(0, 2, 3, 1).numpy(), strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1

    def test_cameras_have_each_their_own_means(
        self, enhance: GLAREEnhance, clip: Path, dark: list[Pixels], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two streams of ultralytics', read from files, by a clock that ticks with the batches."""
        other = self.of_a_lamp(dark[1], clip.with_name("other.mp4"))
        sources = clip.with_name("cameras.streams")
        sources.write_text(f"{clip}\n{other}\n", encoding="utf-8")
        clock = itertools.count()
        monkeypatch.setattr("detection.hooks.monotonic", lambda: next(clock) / 10)
        night: list[tuple[list[str], list[Pixels]]] = []
        yolo = detector()
        yolo.add_callback(
            "on_predict_batch_start",
            lambda predictor: night.append(
                (list(predictor.batch[0]), [i.copy() for i in predictor.batch[1]])
            ),
        )
        put_in_front(yolo, enhance)
        seen: dict[str, list[Pixels]] = {}
        for result in yolo.predict(sources, stream=True, verbose=False, stream_buffer=True):
            seen.setdefault(result.path, []).append(bgr(result.orig_img))
        assert len(seen) == 2
        assert len(night) > 2
        for number, (path, images) in enumerate(seen.items()):
            steady = with_all_cores(Steady(enhance))
            for place, (image, (paths, loaded)) in enumerate(zip(images, night, strict=True)):
                assert paths[number] == path
                frame = torch.from_numpy(bgr(loaded[number]).copy()).permute(2, 0, 1)[None]
                expected = steady(frame, [place / 10])[0].permute(1, 2, 0).numpy()
                assert np.abs(image.astype(int) - expected).max() <= 1

    def test_tracks(self, enhance: GLAREEnhance, clip: Path, tmp_path: Path) -> None:
        """The example of docs/video.md, line by line, on a clip of this test and by the packaged detector."""
        pytest.importorskip("lap", reason="ultralytics assigns tracks with lap, which is not installed")
        av = pytest.importorskip("av")
        from ultralytics.utils import ROOT, YAML

        page = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")
        (example,) = re.findall(r"```python\n([^`]*yolo\.track[^`]*)```", page)
        # Every box begins a track: the photograph is small and dark, and ultralytics wants a score of 0.25.
        tracker = tmp_path / "tracker.yaml"
        low = {"track_high_thresh": 0.01, "track_low_thresh": 0.005, "new_track_thresh": 0.01}
        YAML.save(tracker, YAML.load(ROOT / "cfg" / "trackers" / "bytetrack.yaml") | low)
        here = f'conf=0.01, tracker="{tracker}", project="{tmp_path}", name="night"'
        for theirs, ours in (
            ('YOLO("yolo26n.pt")', "detector()"),
            ("GLAREEnhance()", "enhance"),
            ('"clip.mp4"', f'"{clip}"'),
            ("save=True", f"save=True, {here}"),
            ("print(result.boxes.id)", "seen.append(result)"),
        ):
            assert example.count(theirs) == 1
            example = example.replace(theirs, ours)
        seen: list[Any] = []
        exec(example, {"detector": detector, "enhance": enhance, "seen": seen})
        assert len(seen) == 6
        ids = [result.boxes.id for result in seen]
        assert any(one is not None for one in ids)
        (saved,) = (tmp_path / "night").iterdir()
        with av.open(str(saved)) as annotated, av.open(str(clip)) as dark:
            shown = [frame.to_ndarray(format="rgb24") for frame in annotated.decode(video=0)]
            night = [frame.to_ndarray(format="rgb24") for frame in dark.decode(video=0)]
        assert [image.shape for image in shown] == [image.shape for image in night]
        assert np.mean(shown) > 1.5 * np.mean(night)
        for image, result, number in zip(shown, seen, ids, strict=True):
            drawn = np.abs(image.astype(int) - bgr(result.orig_img)).max(2) > 60
            assert drawn.any() == (number is not None)  # boxes with their numbers, and else compression alone
