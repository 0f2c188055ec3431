"""experiments/whose_number.py with what the tests' environment has: the other packages are in one of its own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from tests.scripts import load_script


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    enhanced, reference = tmp_path / "enhanced", tmp_path / "reference"
    for folder, name, factor in ((enhanced, "cat.png", 0.8), (reference, "cat.webp", 1.0)):
        folder.mkdir()
        pixels = (data.chelsea()[:120, :200] * factor).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, lossless=True)
    return enhanced, reference


def test_the_same_definition_has_the_same_value_and_what_is_missing_is_named(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["whose_number.py", *map(str, folders)])
    script = load_script("whose_number")
    script.main()
    lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    values = {(measure, package.split()[0], call): value for measure, value, package, call, _ in cells[2:]}
    ours = values["SSIM", "GLARE", "`ssim`"]
    assert 0.5 < float(ours) < 0.999
    skimage = {call: value for (measure, name, call), value in values.items() if name == "scikit-image"}
    assert (
        skimage["`structural_similarity, gaussian_weights=True, sigma=1.5, use_sample_covariance=False`"]
        == ours
    )
    assert skimage["`structural_similarity by default`"] != ours
    squares = (
        np.asarray(Image.open(folders[0] / "cat.png"), float) - Image.open(folders[1] / "cat.webp")
    ) ** 2
    expected = f"{10 * np.log10(255**2 / squares.mean()):.2f}"
    assert values["PSNR", "GLARE", "`psnr`"] == expected
    assert skimage["`peak_signal_noise_ratio, data_range=255`"] == expected
    told = len(cells) - 2 + sum(line.startswith("Left out: ") for line in lines)
    assert told == len(script.rows(None))


def test_an_image_without_partner_is_named(folders: tuple[Path, Path]) -> None:
    enhanced, reference = folders
    (reference / "cat.webp").rename(reference / "dog.webp")
    with pytest.raises(ValueError, match=r"partners in .*reference but got \['cat\.png'\]"):
        load_script("whose_number").read_pairs(enhanced, reference)
