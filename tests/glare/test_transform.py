from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from glare import GLARE, GLAREEnhance
from glare import weights as glare_weights


@pytest.fixture
def model(model: GLARE) -> GLARE:
    # Results lie within [0,1], where gradients pass the clamp.
    nn.init.constant_(model.fusion.decoder.conv_out.bias, 0.5)
    return model


@pytest.fixture
def folder(model: GLARE, tmp_path: Path) -> Path:
    return glare_weights.save(model, tmp_path, torch.float32).parent


@pytest.fixture
def enhance(folder: Path) -> GLAREEnhance:
    return GLAREEnhance(folder)


def _array(*size: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 60, (*size, 3), dtype=np.uint8)


def _expected(model: GLARE, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the model makes of (H,W,3) uint8, computed without the code under test."""
    low = torch.from_numpy(array / np.float32(255.0)).permute(2, 0, 1)[None]
    with torch.no_grad():
        result = model(low)[0].permute(1, 2, 0).numpy()
    return np.clip(result, 0, 1)


class TestKinds:
    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
    def test_pil(self, enhance: GLAREEnhance, model: GLARE, mode: str) -> None:
        image = PIL.Image.fromarray(np.dstack([_array(9, 14), np.arange(126, dtype=np.uint8).reshape(9, 14)]))
        image = image if mode == "RGBA" else image.convert("RGB").convert(mode)
        result = enhance(image)
        assert (type(result), result.mode, result.size) == (PIL.Image.Image, mode, image.size)
        expected = (_expected(model, np.asarray(image.convert("RGB"))) * 255).round()
        got = np.asarray(result.convert("RGB"), float)
        if mode == "L":
            expected = np.repeat((expected @ [0.299, 0.587, 0.114])[..., None], 3, 2)
        assert abs(got - expected).max() <= (16 if mode == "P" else 1)
        if mode == "RGBA":
            np.testing.assert_array_equal(result.getchannel("A"), image.getchannel("A"))

    @pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
    def test_array(self, enhance: GLAREEnhance, model: GLARE, dtype: str) -> None:
        array = _array(10, 7)
        given = array if dtype == "uint8" else (array / 255.0).astype(dtype)
        result = enhance(given)
        assert isinstance(result, np.ndarray)
        assert (result.dtype, result.shape) == (given.dtype, given.shape)
        scale = 255.0 if dtype == "uint8" else 1.0
        tolerance = {"uint8": 0.51 / 255, "float16": 5e-3}.get(dtype, 1e-5)
        np.testing.assert_allclose(result / scale, _expected(model, array), atol=tolerance)

    @pytest.mark.parametrize(
        "dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64]
    )
    @pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
    def test_tensor(self, enhance: GLAREEnhance, dtype: torch.dtype, lead: tuple[int, ...]) -> None:
        x = torch.rand(*lead, 3, 8, 9) * 0.3
        x = (x * 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
        result = enhance(x)
        assert (type(result), result.dtype, result.shape) == (torch.Tensor, dtype, x.shape)
        assert not torch.equal(result, x)

    @pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Video])
    def test_tv_tensor(self, enhance: GLAREEnhance, kind: type[Any]) -> None:
        x = torch.rand(2, 3, 8, 8) * 0.3
        result = enhance(kind(x))
        assert type(result) is kind
        assert torch.equal(result.as_subclass(torch.Tensor), enhance(x))

    @pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2), (63, 33)])
    def test_any_size(self, enhance: GLAREEnhance, size: tuple[int, int]) -> None:
        assert enhance(torch.rand(3, *size)).shape == (3, *size)

    def test_a_long_clip_is_enhanced_in_parts(self, enhance: GLAREEnhance, monkeypatch: Any) -> None:
        clip = tv_tensors.Video(torch.randint(0, 60, (5, 3, 8, 8), dtype=torch.uint8))
        whole = enhance(clip)
        monkeypatch.setattr("glare.tiled.PIXELS_AT_ONCE", 2 * 8 * 8)
        assert (enhance(clip).int() - whole.int()).abs().max() <= 1

    def test_the_result_is_cut_to_the_range(self, model: GLARE) -> None:
        bright = copy.deepcopy(model)
        nn.init.constant_(bright.fusion.decoder.conv_out.bias, 5.0)
        assert bright(torch.rand(1, 3, 8, 8)).max() > 1.5
        result = GLAREEnhance(bright)(torch.rand(3, 8, 8))
        assert result.min() >= 0.0
        assert result.max() == 1.0


class TestSamples:
    def test_what_is_no_image_passes_by_identity(self, enhance: GLAREEnhance) -> None:
        sample = {
            "image": tv_tensors.Image(torch.rand(3, 8, 8)),
            "boxes": tv_tensors.BoundingBoxes(
                torch.tensor([[0, 0, 3, 3]]), format="XYXY", canvas_size=(8, 8)
            ),
            "masks": tv_tensors.Mask(torch.zeros(3, 8, 8, dtype=torch.uint8)),
            "labels": torch.tensor([1]),
            "depth": torch.rand(3, 8, 8),
            "keypoints": np.zeros((2, 17, 3), np.float32),
            "name": "night.jpg",
            "nothing": None,
        }
        result = enhance(sample)
        assert not torch.equal(result["image"], sample["image"])
        assert all(result[key] is sample[key] for key in sample if key != "image")

    def test_beside_an_array_tensors_pass(self, enhance: GLAREEnhance) -> None:
        array, labels, masks = _array(8, 8), torch.tensor([1, 2]), torch.rand(3, 8, 8)
        result = enhance(array, labels, masks)
        assert not np.array_equal(result[0], array)
        assert result[1] is labels
        assert result[2] is masks

    def test_of_plain_tensors_the_first_image_is_enhanced(self, enhance: GLAREEnhance) -> None:
        labels, image, other = torch.tensor([1]), torch.rand(3, 8, 8), torch.rand(3, 8, 8)
        result = enhance([labels, image, other])
        assert result[0] is labels
        assert torch.equal(result[1], enhance(image))
        assert result[2] is other

    @pytest.mark.parametrize(
        "alone",
        [
            tv_tensors.Mask(torch.zeros(4, 4, dtype=torch.bool)),
            tv_tensors.BoundingBoxes(torch.zeros(1, 4), format="XYXY", canvas_size=(4, 4)),
        ],
        ids=["mask", "boxes"],
    )
    def test_boxes_and_masks_alone_pass(self, enhance: GLAREEnhance, alone: Any) -> None:
        assert enhance(alone) is alone


class TestPipelines:
    def test_compose_after_a_bicubic_resize_that_overshoots(self, enhance: GLAREEnhance) -> None:
        x = torch.zeros(3, 16, 16)
        x[:, :, 8:] = 1.0
        resize = v2.Resize((40, 40), interpolation=v2.InterpolationMode.BICUBIC)
        resized = resize(x)
        assert resized.max() > 1.01
        result = v2.Compose([resize, enhance])(x)
        assert torch.equal(result, enhance(resized.clamp(0, 1)))

    def test_sequential(self, enhance: GLAREEnhance) -> None:
        x = torch.rand(2, 3, 8, 8)
        pool = nn.AvgPool2d(2)
        assert torch.equal(nn.Sequential(enhance, pool)(x), pool(enhance(x)))

    def test_data_loader_with_workers(self, enhance: GLAREEnhance) -> None:
        batches = list(DataLoader(_Dataset(enhance), batch_size=2, num_workers=2))
        expected = torch.stack([enhance(_Dataset.image(i)) for i in range(4)])
        torch.testing.assert_close(torch.cat(batches), expected)

    def test_pickles_without_the_weights(self, enhance: GLAREEnhance) -> None:
        x = torch.rand(3, 8, 8)
        expected = enhance(x)
        assert len(pickle.dumps(enhance)) < 5_000
        assert torch.equal(pickle.loads(pickle.dumps(enhance))(x), expected)
        assert torch.equal(copy.deepcopy(enhance)(x), expected)

    def test_trained_weights_are_pickled(self, folder: Path) -> None:
        enhance = GLAREEnhance(folder, trainable=True)
        with torch.no_grad():
            enhance.network.fusion.decoder.conv_out.bias.add_(0.1)
        x = torch.rand(3, 8, 8)
        assert torch.equal(pickle.loads(pickle.dumps(enhance))(x), enhance(x))

    def test_weights_are_read_at_the_first_image_and_are_no_state(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = []
        load = glare_weights.load
        monkeypatch.setattr(glare_weights, "load", lambda name: read.append(name) or load(name))
        enhance = GLAREEnhance(folder)
        assert read == []
        for _ in range(2):
            enhance(torch.rand(3, 8, 8))
        assert read == [folder]
        assert enhance.state_dict() == OrderedDict()
        assert not any(p.requires_grad for p in enhance.model.parameters())


class TestModes:
    @pytest.mark.parametrize("trainable", [False, True])
    def test_train_changes_nothing(self, folder: Path, trainable: bool) -> None:
        enhance = GLAREEnhance(folder, trainable=trainable)
        x = torch.rand(2, 3, 8, 8)
        before = enhance.eval()(x)
        assert torch.equal(nn.Sequential(enhance).train()(x), before)
        assert not any(module.training for module in enhance.model.modules())

    def test_float32_inside_an_outer_autocast_and_bfloat16_when_asked(self, folder: Path) -> None:
        x = torch.rand(3, 16, 16)
        exact = GLAREEnhance(folder)(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(GLAREEnhance(folder)(x), exact)
        coarse = GLAREEnhance(folder, dtype=torch.bfloat16)(x)
        assert coarse.dtype == torch.float32
        assert 0.0 < (coarse - exact).abs().mean() < 0.02

    def test_a_model_given_is_copied_unless_trainable(self, model: GLARE) -> None:
        mine = copy.deepcopy(model).train()
        frozen = GLAREEnhance(mine)
        assert mine.training
        assert all(p.requires_grad for p in mine.parameters())
        assert frozen.model is not mine
        assert GLAREEnhance(mine, trainable=True).model is mine

    def test_fidelity_reaches_the_model(self, folder: Path, model: GLARE) -> None:
        x = torch.rand(1, 3, 16, 16)
        with torch.no_grad():
            expected = model(x, fidelity=0.0).clamp(0, 1)
        torch.testing.assert_close(GLAREEnhance(folder, fidelity=0.0)(x), expected, rtol=0, atol=1e-5)
        assert (GLAREEnhance(folder)(x) - expected).abs().max() > 1e-3

    def test_repr_shows_the_arguments(self, folder: Path) -> None:
        text = repr(GLAREEnhance(folder, fidelity=0.5))
        assert str(folder) in text
        assert "fidelity=0.5" in text


class TestGradient:
    def test_input_gradient_is_the_models(self, folder: Path, model: GLARE) -> None:
        x = (torch.rand(1, 3, 16, 16) * 0.5 + 0.2).requires_grad_()
        (ours,) = torch.autograd.grad(GLAREEnhance(folder)(x).square().sum(), x)
        (expected,) = torch.autograd.grad(model(x).clamp(0, 1).square().sum(), x)
        assert expected.abs().max() > 0
        # Another order of the same sums.
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())

    def test_parameters_have_a_gradient_only_when_trainable(self, folder: Path) -> None:
        x = torch.rand(1, 3, 8, 8)
        assert list(GLAREEnhance(folder).parameters()) == []
        assert not GLAREEnhance(folder)(x).requires_grad
        enhance = GLAREEnhance(folder, trainable=True)
        parameters = list(enhance.parameters())
        assert parameters
        assert all(p.requires_grad for p in parameters)
        enhance(x).mean().backward()
        assert sum(p.grad is not None and bool(p.grad.any()) for p in parameters) > len(parameters) // 2

    def test_no_grad_is_respected(self, folder: Path) -> None:
        enhance = GLAREEnhance(folder, trainable=True)
        with torch.no_grad():
            assert not enhance(torch.rand(3, 8, 8, requires_grad=True)).requires_grad

    def test_weights_read_in_inference_mode_still_pass_a_gradient(self, enhance: GLAREEnhance) -> None:
        with torch.inference_mode():
            enhance(torch.rand(3, 8, 8))
        x = torch.full((3, 8, 8), 0.4, requires_grad=True)
        enhance(x).sum().backward()
        assert x.grad is not None
        assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("a string", TypeError, "str"),
        (None, TypeError, "NoneType"),
        ([], TypeError, r"\[\]"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), TypeError, "int64"),
        (np.zeros((4, 4, 3), np.uint16), TypeError, "uint16"),
        (torch.zeros(4, 4), ValueError, r"\(4, 4\)"),
        (torch.zeros(1, 4, 4), ValueError, r"\(1, 4, 4\)"),
        (torch.zeros(4, 4, 3), ValueError, r"\(4, 4, 3\)"),
        ((torch.zeros(1, 4, 4), 7), ValueError, r"\(1, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), ValueError, r"\(0, 3, 4, 4\)"),
        (tv_tensors.Image(torch.zeros(1, 4, 4)), ValueError, r"\(1, 4, 4\)"),
        (np.zeros((4, 4), np.uint8), ValueError, r"\(4, 4\)"),
        (np.zeros((4, 0, 3), np.uint8), ValueError, r"\(4, 0, 3\)"),
        (torch.full((3, 4, 4), float("nan")), ValueError, "NaN"),
        (torch.full((3, 4, 4), 255.0), ValueError, "255"),
        (np.full((4, 4, 3), -0.5), ValueError, "-0.5"),
        (PIL.Image.new("CMYK", (4, 4)), ValueError, "CMYK"),
        (PIL.Image.new("I;16", (4, 4)), ValueError, "I;16"),
        (PIL.Image.new("RGB", (0, 4)), ValueError, r"\(0, 4\)"),
    ],
)
def test_bad_input_says_what_came(
    enhance: GLAREEnhance, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        enhance(given)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"weights": 3}, TypeError, "`weights`.*int"),
        ({"weights": "no-such-weights"}, FileNotFoundError, "no-such-weights"),
        ({"fidelity": "1"}, TypeError, "`fidelity`.*str"),
        ({"fidelity": -1.0}, ValueError, r"`fidelity` to be in \[0, 2\] but got -1.0"),
        ({"fidelity": float("nan")}, ValueError, "nan"),
        ({"dtype": torch.float16}, ValueError, "`dtype`.*float16"),
        ({"tile": 16}, ValueError, "`tile`.*16"),
        ({"device": "abacus"}, ValueError, "`device`.*abacus"),
        ({"dtype": "bf16"}, ValueError, r"torch\.bfloat16 but got 'bf16'"),
        ({"trainable": 1}, TypeError, "`trainable`.*int"),
    ],
    ids=str,
)
def test_bad_arguments_say_what_came(
    folder: Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        GLAREEnhance(**{"weights": folder, **arguments})


class _Dataset(Dataset[torch.Tensor]):
    def __init__(self, transform: GLAREEnhance) -> None:
        self.transform = transform

    @staticmethod
    def image(index: int) -> torch.Tensor:
        return torch.full((3, 8, 8), 0.1 * index)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.image(index))  # type: ignore[no-any-return]
