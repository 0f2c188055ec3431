import itertools
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
import skimage
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage
from scipy.special import gamma
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from glare.niqe import FILE, NIQE, block_features
from tests.scripts import load_script

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")


def photograph(name: str) -> np.ndarray:
    image: np.ndarray = getattr(skimage.data, name)()
    return image


def as_batch(image: np.ndarray) -> Tensor:
    """Stored in 8 bits, as any image is."""
    stored = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return torch.from_numpy(stored).movedim(-1, 0)[None].float() / 255


def by_the_book(values: np.ndarray) -> tuple[float, float, float]:
    """Shape and scales of the asymmetric generalised Gaussian whose moments are those of ``values``."""
    left, right = (np.sqrt((values[side] ** 2).mean()) for side in (values < 0, values > 0))
    g = left / right
    wanted = np.abs(values).mean() ** 2 / (values**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    shapes = np.arange(0.2, 10.0005, 0.001)
    found = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    shape = shapes[np.argmin((found - wanted) ** 2)]
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def features_by_the_book(image: np.ndarray) -> np.ndarray:
    """The features of the blocks of an (H,W,3) image, one loop after the other."""
    height, width = (side // 96 * 96 for side in image.shape[:2])
    grey = image[:height, :width].astype(float) @ [0.299, 0.587, 0.114]
    half = PIL.Image.fromarray(grey.astype(np.float32)).resize(
        (width // 2, height // 2), PIL.Image.Resampling.BICUBIC
    )
    scales = []
    for picture, side in ((grey, 96), (np.asarray(half, dtype=float), 48)):
        mean, square = (
            ndimage.gaussian_filter(p, 7 / 6, radius=3, mode="nearest") for p in (picture, picture**2)
        )
        normal = (picture - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
        rows = []
        for top in range(0, normal.shape[0], side):
            for start in range(0, normal.shape[1], side):
                block = normal[top : top + side, start : start + side]
                shape, left, right = by_the_book(block)
                row = [shape, (left + right) / 2]
                for product in (
                    block[:, 1:] * block[:, :-1],
                    block[1:] * block[:-1],
                    block[1:, 1:] * block[:-1, :-1],
                    block[1:, :-1] * block[:-1, 1:],
                ):
                    shape, left, right = by_the_book(product)
                    row += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
                rows.append(row)
        scales.append(np.array(rows))
    return np.concatenate(scales, axis=1)


def test_features_are_those_of_the_paper() -> None:
    image = photograph("coffee")[:200, :310]
    ours, _ = block_features(as_batch(image))
    expected = features_by_the_book(image)
    assert ours.shape == (1, 6, 36)
    # Pillow's half size is float32.
    np.testing.assert_allclose(ours[0].numpy(), expected, rtol=0, atol=2e-3)
    np.testing.assert_allclose(ours[0, :, :18].numpy(), expected[:, :18], rtol=0, atol=1e-6)


def test_distance_is_that_of_the_paper() -> None:
    image, niqe = photograph("chelsea"), NIQE()
    features = features_by_the_book(image)
    apart = features.mean(0) - niqe.mean.numpy()
    spread = (np.cov(features, rowvar=False) + niqe.covariance.numpy()) / 2
    expected = np.sqrt(apart @ np.linalg.pinv(spread) @ apart)
    assert niqe(as_batch(image)).item() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_rises_with_noise_and_with_blur(name: str) -> None:
    image, niqe = photograph(name).astype(float), NIQE()
    noise = np.random.default_rng(0).normal(size=image.shape)
    noisy = [niqe(as_batch(image + sigma * noise)).item() for sigma in (0, 5, 10, 20, 30)]
    blurred = [
        niqe(as_batch(ndimage.gaussian_filter(image, (sigma, sigma, 0)))).item()
        for sigma in (0, 0.7, 1.0, 1.5, 2.0)
    ]
    for values in (noisy, blurred):
        assert 2 < values[0] < 6
        assert all(b > a for a, b in itertools.pairwise(values)), values


def test_same_image_same_value_alone_or_in_a_batch() -> None:
    batch = torch.cat([as_batch(photograph(name)[:300, :400]) for name in PHOTOGRAPHS])
    niqe = NIQE()
    values = niqe(batch)
    assert torch.equal(values, niqe(batch))
    torch.testing.assert_close(values, torch.cat([niqe(image[None]) for image in batch]), rtol=0, atol=1e-9)
    assert len(set(values.tolist())) == 3


def test_cheap_enough_for_a_benchmark() -> None:
    """By operations, which no other work on the machine adds to: windows in two passes, at two sizes."""
    image, niqe = torch.rand(1, 3, 400, 600), NIQE()
    with FlopCounterMode(display=False) as counter:
        niqe(image)
    assert 0 < counter.get_total_flops() < 100 * 400 * 600


def test_flat_blocks_do_not_count() -> None:
    image = torch.cat([as_batch(photograph("coffee")[:96, :288]), torch.ones(1, 3, 96, 288)], 2)
    features, _ = block_features(image)
    assert features.isfinite().all(-1).tolist() == [[True] * 3 + [False] * 3]
    assert NIQE()(image).isfinite().all()
    assert NIQE()(torch.zeros(1, 3, 200, 200)).isnan().all()


@pytest.mark.parametrize("shape", [(95, 400), (191, 96), (20, 30)])
def test_images_too_small(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least 96×192 or 192×96 but got \({shape[0]}, {shape[1]}\)"):
        NIQE()(torch.rand(1, 3, *shape))


@pytest.mark.parametrize("shape", [(1, 1, 200, 200), (3, 200, 200)])
def test_shape_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"of shape \(B,3,H,W\) but got"):
        NIQE()(torch.rand(shape))


def test_packaged_model_says_what_it_was_fitted_on() -> None:
    with safe_open(FILE, framework="pt") as file:
        about = file.metadata()
    assert "BSDS500" in about["note"]
    assert "non-commercial" in about["note"]
    assert int(about["blocks"]) > 500
    covariance = NIQE().covariance
    assert torch.equal(covariance, covariance.T)
    assert torch.linalg.eigvalsh(covariance).min() > 0


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("nothing")
    save_file({"mean": torch.zeros(36)}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"text\.safetensors is truncated or no safetensors file"):
        NIQE(tmp_path / "text.safetensors")
    with pytest.raises(ValueError, match=r"half\.safetensors holds \{'mean': \(36,\)\}"):
        NIQE(tmp_path / "half.safetensors")
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        NIQE(tmp_path / "none.safetensors")


@pytest.fixture
def script() -> ModuleType:
    return load_script("fit_niqe")


def test_fit(script: ModuleType, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "niqe.safetensors"
    photos.mkdir()
    words = [str(photos), "--out", str(out), "--note", "three photographs"]
    PIL.Image.fromarray(photograph("coffee")[:200, :200]).save(photos / "coffee.png")
    with pytest.raises(SystemExit, match="more than 36 sharp blocks"):
        script.main(words)
    for name in ("astronaut", "brick", "grass", "gravel"):
        PIL.Image.fromarray(photograph(name)).save(photos / f"{name}.png")
    script.main(words)
    with safe_open(out, framework="pt") as file:
        assert file.metadata()["note"] == "three photographs"
    # What it was fitted on is near to it.
    grass = as_batch(np.stack([photograph("grass")] * 3, -1))
    assert NIQE(out)(grass).item() < 0.5 * NIQE()(grass).item()
