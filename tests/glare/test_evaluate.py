import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from glare.cli import main
from glare.data.pairs import list_pairs, read_pair
from glare.evaluate import FIGURES, Evaluation, evaluate_pairs, stages_on
from glare.metrics import psnr
from glare.model import GLARE
from glare.weights import save

NAMES = ["a.png", "b.png"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two pairs of a size that no stage takes whole; the low-light image is exactly a fifth of the reference."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        low = rng.integers(1, 52, (34, 27, 3), dtype=np.uint8)
        for side, pixels in (("low", low), ("high", 5 * low)):
            (tmp_path / side).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / side / name)
    return tmp_path


@pytest.fixture
def images(pairs: Path) -> list[tuple[Tensor, Tensor]]:
    return [read_pair(files, torch.device("cpu")) for files in list_pairs(pairs)]


@pytest.fixture
def found(model: GLARE, pairs: Path) -> Evaluation:
    return evaluate_pairs(model, pairs)


def test_a_pair_of_the_same_image_is_refused(model: GLARE, pairs: Path) -> None:
    shutil.copy(pairs / "high" / NAMES[1], pairs / "low" / NAMES[1])
    with pytest.raises(ValueError, match=r"low/b\.png has the pixels of .*high/b\.png"):
        evaluate_pairs(model, pairs)


def decibels(image: Tensor, reference: Tensor) -> float:
    return float(10 * np.log10(1 / np.square(image.numpy() - reference.numpy()).mean(dtype=np.float64)))


def test_each_method_as_it_would_be_stored(
    model: GLARE, found: Evaluation, images: list[tuple[Tensor, Tensor]]
) -> None:
    with torch.inference_mode():
        results = {
            "untouched": [low for low, _ in images],
            "gamma 0.45": [low**0.45 for low, _ in images],
            "GLARE": [model(low).clamp(0, 1) for low, _ in images],
        }
    assert list(found.methods) == list(results)
    for name, made in results.items():
        stored = [(255 * image).round() / 255 for image in made]
        expected = [decibels(image, high) for image, (_, high) in zip(stored, images, strict=True)]
        assert found.methods[name]["PSNR"] == pytest.approx(np.mean(expected), abs=1e-4)
        if name == "GLARE":
            told = [found.images[image]["PSNR"] for image in NAMES]
            assert told == pytest.approx(expected, abs=1e-4)


def test_gt_mean_takes_the_brightness_from_the_answer(found: Evaluation) -> None:
    untouched = found.methods["untouched"]
    assert tuple(untouched) == FIGURES
    assert untouched["PSNR"] < 10
    assert untouched["SSIM"] < 0.5
    assert untouched["PSNR GT-mean"] > 100
    assert untouched["SSIM GT-mean"] == pytest.approx(1, abs=1e-4)


def test_stages_are_means_over_the_pairs(
    model: GLARE, found: Evaluation, images: list[tuple[Tensor, Tensor]]
) -> None:
    rows, codes = zip(*(stages_on(model, low, high) for low, high in images), strict=True)
    for name, value in rows[0].items():
        assert found.stages[name] == pytest.approx((value + rows[1][name]) / 2)
    assert found.stages["codes used, of all"] == len(codes[0] | codes[1]) / model.config.codes
    assert found.stages.keys() == {*rows[0], "codes used, of all"}


def test_stages_on_a_pair(model: GLARE, images: list[tuple[Tensor, Tensor]]) -> None:
    low, high = images[0]
    figures, codes = stages_on(model, low, high)
    with torch.inference_mode():
        image, indices, _ = model.codebook(high[..., :32, :24])
    assert figures["codebook PSNR"] == pytest.approx(psnr(image.clamp(0, 1), high[..., :32, :24]).item())
    assert codes == set(indices.flatten().tolist())
    assert figures["latent error, flow"] != figures["latent error, encoder alone"]
    for name in ("codes retrieved, flow", "codes retrieved, encoder alone"):
        assert 0 <= figures[name] <= 1


def test_command(model: GLARE, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(model, tmp_path / "weights", dtype=torch.float32).parent
    assert main(["evaluate", str(pairs), "--weights", str(folder), "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"2 pairs of {pairs}")
    measured = evaluate_pairs(model, pairs)
    for method, row in measured.methods.items():
        line = next(line for line in told.splitlines() if line.startswith(method))
        figures = [float(figure) for figure in line.removeprefix(method).split()]
        assert figures == pytest.approx([row[name] for name in FIGURES], abs=2e-3)
    assert all(name in told for name in measured.stages)
