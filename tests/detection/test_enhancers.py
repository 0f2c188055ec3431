import sys
from pathlib import Path

import numpy as np
import pytest
from skimage.color import lab2rgb, rgb2lab

from detection import enhancer, sample_set
from detection.enhancers import NAMES, check_enhanced
from glare import GLAREEnhance

WEIGHTS = Path(__file__).parents[2] / "glare" / "pretrained" / "glare-tiny"
trained = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="glare-tiny is not trained yet")


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return sample_set().samples[3].load() // 3


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "an_enhancer_of_ours.py").write_text("invert = lambda image: 255 - image\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "an_enhancer_of_ours"
    sys.modules.pop("an_enhancer_of_ours", None)


def clahe_of(channel: np.ndarray, clip: float = 2.0, tiles: int = 8) -> np.ndarray:
    """Zuiderveld's CLAHE as a plain loop, for a channel whose sides are multiples of `tiles`."""
    height, width = channel.shape[0] // tiles, channel.shape[1] // tiles
    limit = max(int(clip * height * width / 256), 1)
    tables = np.empty((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            tile = channel[i * height : (i + 1) * height, j * width : (j + 1) * width]
            counts = np.bincount(tile.ravel(), minlength=256)
            excess = np.maximum(counts - limit, 0).sum()
            counts = np.minimum(counts, limit) + excess // 256
            if rest := excess % 256:  # OpenCV hands it to every n-th value, from black on
                counts[:: max(256 // rest, 1)][:rest] += 1
            tables[i, j] = 255 * counts.cumsum() / (height * width)
    out = np.empty(channel.shape)
    for (y, x), value in np.ndenumerate(channel):
        v, u = (y + 0.5) / height - 0.5, (x + 0.5) / width - 0.5
        i, j = int(np.floor(v)), int(np.floor(u))
        a, b = v - i, u - j
        top, bottom = max(i, 0), min(i + 1, tiles - 1)
        left, right = max(j, 0), min(j + 1, tiles - 1)
        out[y, x] = (1 - a) * ((1 - b) * tables[top, left, value] + b * tables[top, right, value]) + a * (
            (1 - b) * tables[bottom, left, value] + b * tables[bottom, right, value]
        )
    return out


class TestClassics:
    def test_raw_is_untouched(self, cat: np.ndarray) -> None:
        assert np.array_equal(enhancer("raw")(cat), cat)

    def test_gamma(self, cat: np.ndarray) -> None:
        expected = np.round(255 * (cat.astype(np.float64) / 255) ** 0.45)
        assert np.array_equal(enhancer("gamma")(cat), expected)

    def test_histogram_of_grey(self, cat: np.ndarray) -> None:
        grey = cat[..., :1].repeat(3, axis=-1)
        values, counts = np.unique(grey[..., 0], return_counts=True)
        cumulated = counts.cumsum() - counts[0]
        table = dict(zip(values, np.round(255 * cumulated / cumulated[-1]), strict=True))
        expected = np.vectorize(table.__getitem__)(grey[..., 0])
        assert np.abs(enhancer("histogram")(grey)[..., 0] - expected).max() <= 1

    def test_histogram_keeps_hue(self) -> None:
        image = np.zeros((8, 8, 3), np.uint8)
        image[:4], image[4:] = (60, 20, 20), (20, 20, 60)
        out = enhancer("histogram")(image).astype(int)
        assert out[0, 0, 0] > out[0, 0, 2]
        assert out[7, 7, 2] > out[7, 7, 0]

    def test_clahe(self, cat: np.ndarray) -> None:
        image = cat[:160, :240, :1].repeat(3, axis=-1)  # grey, where the 8 bits of a and b round nothing away
        lab = rgb2lab(image)
        lightness = np.round(lab[..., 0] * 255 / 100).astype(np.uint8)
        lab[..., 0] = clahe_of(lightness) * 100 / 255
        expected = 255 * lab2rgb(lab)
        difference = np.abs(enhancer("clahe")(image) - expected)
        assert np.abs(image - expected).mean() > 20
        assert difference.mean() < 1.5  # OpenCV rounds the lightness differently, and CLAHE magnifies that

    @pytest.mark.parametrize("name", [name for name in NAMES if name != "glare"])
    def test_shape_kind_and_input(self, name: str, cat: np.ndarray) -> None:
        before = cat.copy()
        check_enhanced(name, cat, enhancer(name)(cat))
        assert np.array_equal(cat, before)


class TestGLARE:
    @trained
    @pytest.mark.parametrize(("name", "fidelity"), [("glare", 1.0), ("glare@0.5", 0.5)])
    def test_fidelity_is_in_the_name(self, name: str, fidelity: float) -> None:
        glare = enhancer(name)
        assert isinstance(glare, GLAREEnhance)
        assert glare.fidelity == fidelity

    def test_fidelity_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"`fidelity` to be in \[0, 2\] but got 3\.0"):
            enhancer("glare@3")

    @trained
    def test_brightens(self, cat: np.ndarray) -> None:
        dark = cat[:96, :128] // 4
        enhanced = enhancer("glare")(dark)
        check_enhanced("glare", dark, enhanced)
        assert enhanced.mean() > 1.5 * dark.mean()


class TestOwn:
    def test_module_and_callable(self, own: str, cat: np.ndarray) -> None:
        assert np.array_equal(enhancer(f"{own}:invert")(cat), 255 - cat)

    def test_errors(self, own: str) -> None:
        with pytest.raises(ValueError, match=r"raw, gamma, clahe, histogram, glare.*'zero-dce'"):
            enhancer("zero-dce")
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            enhancer("no_such_module:enhance")
        with pytest.raises(ValueError, match="callable 'number' but got 3"):
            enhancer(f"{own}:number")
        with pytest.raises(ValueError, match="callable 'missing' but got None"):
            enhancer(f"{own}:missing")
        with pytest.raises(ValueError, match="number behind `glare@` but got 'much'"):
            enhancer("glare@much")

    @pytest.mark.parametrize(
        ("result", "got"),
        [
            (np.zeros((4, 4, 3)), "float64"),
            (np.zeros((4, 5, 3), np.uint8), r"\(4, 5, 3\)"),
            (None, "NoneType"),
        ],
    )
    def test_results_are_checked(self, result: object, got: str) -> None:
        with pytest.raises(ValueError, match=f"enhancer `mine` to return uint8 .* but got .*{got}"):
            check_enhanced("mine", np.zeros((4, 4, 3), np.uint8), result)
