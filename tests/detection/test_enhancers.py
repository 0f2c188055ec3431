import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb, rgb2lab

from detection import enhancer, sample_set
from detection.enhancers import NAMES, Folder, check_enhanced
from glare import GLAREEnhance, weights

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
        glare = enhancer(name).enhance
        assert isinstance(glare, GLAREEnhance)
        assert glare.weights == "glare-tiny"
        assert glare.fidelity == fidelity

    @trained
    @pytest.mark.parametrize(("behind", "fidelity"), [("", 1.0), ("@0.5", 0.5)])
    def test_weights_are_in_the_name(self, tmp_path: Path, behind: str, fidelity: float) -> None:
        folder = tmp_path / "at@home"
        shutil.copytree(WEIGHTS, folder)
        # Where the path has an @, the fidelity has to be said: what is behind the last one is it.
        name = f"glare={folder}{behind or '@1'}"
        glare = enhancer(name).enhance
        assert (glare.weights, glare.fidelity) == (str(folder), fidelity)
        assert enhancer(f"glare={WEIGHTS}").enhance.fidelity == 1.0
        with pytest.raises(FileNotFoundError, match="nowhere"):
            enhancer("glare=nowhere@0.5")

    @trained
    def test_identity_changes_with_weights_and_fidelity(self, tmp_path: Path) -> None:
        same, other = tmp_path / "same", tmp_path / "other"
        shutil.copytree(WEIGHTS, same)
        weights.save(weights.load(WEIGHTS), other, dtype=torch.bfloat16)
        packaged = enhancer("glare").identity
        assert enhancer(f"glare={same}").identity == packaged
        assert enhancer(f"glare={other}").identity != packaged
        assert enhancer("glare@0.9").identity != packaged

    def test_fidelity_out_of_range(self) -> None:
        with pytest.raises(ValueError, match=r"`fidelity` to be in \[0, 2\] but got 3\.0"):
            enhancer("glare@3")

    @trained
    def test_brightens(self, cat: np.ndarray) -> None:
        dark = cat[:96, :128] // 4
        enhanced = enhancer("glare")(dark)
        check_enhanced("glare", dark, enhanced)
        assert enhanced.mean() > 1.5 * dark.mean()


class Brighter(torch.nn.Module):
    """Values outside [0,1], as networks make them, and red at another place than blue."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * torch.tensor([3.0, 1.0, 0.5]).view(1, 3, 1, 1) - 0.1


def export(module: torch.nn.Module, file: Path, *inputs: torch.Tensor) -> Path:
    anywhere = {2: "height", 3: "width"}
    names = [f"input{i}" for i in range(len(inputs))]
    torch.onnx.export(
        module,
        inputs,
        file,
        input_names=names,
        output_names=["out"],
        dynamic_axes=dict.fromkeys([*names, "out"], anywhere),
        dynamo=False,
    )
    return file


class TestONNX:
    image = torch.zeros(1, 3, 8, 8)

    @pytest.fixture(autouse=True)
    def packages(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")

    def test_is_what_the_network_makes(self, tmp_path: Path, cat: np.ndarray) -> None:
        file = export(Brighter(), tmp_path / "brighter.onnx", self.image)
        enhanced = enhancer(f"onnx:{file}")(cat)
        check_enhanced("onnx", cat, enhanced)
        with torch.no_grad():
            expected = Brighter()(torch.from_numpy(cat.copy()).permute(2, 0, 1)[None] / 255)
        expected = (255 * expected[0].clamp(0, 1)).round().permute(1, 2, 0).numpy()
        assert np.abs(enhanced - expected).max() <= 1  # where both are half way between two values
        assert (enhanced == expected).mean() > 0.99

    def test_identity_is_of_the_file(self, tmp_path: Path) -> None:
        one = export(Brighter(), tmp_path / "one.onnx", self.image)
        two = export(torch.nn.Sigmoid(), tmp_path / "two.onnx", self.image)
        copy = shutil.copy(one, tmp_path / "three.onnx")
        identities = [enhancer(f"onnx:{file}").identity for file in (one, two, copy)]
        assert identities[0] == identities[2] != identities[1]

    def test_mistakes(self, tmp_path: Path, cat: np.ndarray) -> None:
        with pytest.raises(FileNotFoundError, match=r"ONNX file at .*gone\.onnx"):
            enhancer(f"onnx:{tmp_path / 'gone.onnx'}")
        (tmp_path / "text.onnx").write_text("no network")
        with pytest.raises(ValueError, match=r"ONNX network at .*text\.onnx"):
            enhancer(f"onnx:{tmp_path / 'text.onnx'}")

        class NaN(torch.nn.Module):
            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return torch.log(image - 2)

        class Sum(torch.nn.Module):
            def forward(self, one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
                return one + two

        two = export(Sum(), tmp_path / "sum.onnx", self.image, self.image)
        with pytest.raises(ValueError, match=r"to take one float image but it takes input0: .*, input1"):
            enhancer(f"onnx:{two}")
        half = export(torch.nn.AvgPool2d(2), tmp_path / "half.onnx", self.image)
        nan = export(NaN(), tmp_path / "nan.onnx", self.image)
        with pytest.raises(ValueError, match=r"nan\.onnx to return finite numbers but got NaN"):
            enhancer(f"onnx:{nan}")(cat)
        with pytest.raises(ValueError, match=r"half\.onnx to return \(1, 3, .*but got \(1, 3"):
            enhancer(f"onnx:{half}")(cat)

    def test_without_the_package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = export(Brighter(), tmp_path / "brighter.onnx", self.image)
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime"):
            enhancer(f"onnx:{file}")


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        files = (
            "Cat/a.JPG.png",
            "Cat/b.png",
            "Dog/b.jpg",
            "Dog/c.png",
            "Dog/c.jpg",
            "dark/d.png",
            "mild/d.png",
        )
        for name in (*files, "Cat/b.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "light", "file"),
        [
            ("Cat/b.jpg", "Low", "Cat/b.png"),  # another suffix, and no text
            ("Dog/c.png", "Low", "Dog/c.png"),  # not the other suffix where there are both
            ("dog/B.PNG", "Low", "Dog/b.jpg"),  # another case
            ("a.JPG.jpg", "Low", "Cat/a.JPG.png"),  # in another folder, and points in the name
            ("d.jpg", "dark", "dark/d.png"),  # of its light
        ],
    )
    def test_finds(self, root: Path, name: str, light: str, file: str) -> None:
        folder = enhancer(f"folder:{root}")
        assert isinstance(folder, Folder)
        assert folder.find(name, light) == root / file

    @pytest.mark.parametrize(
        ("name", "got"),
        [("e.png", "none"), ("b.bmp", "Cat/b.png, Dog/b.jpg"), ("Dog/c.bmp", "Dog/c.jpg, Dog/c.png")],
    )
    def test_none_or_several(self, root: Path, name: str, got: str) -> None:
        with pytest.raises(FileNotFoundError, match=f"one image of that name in .* but got {got}"):
            Folder(root).find(name, "Low")

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"enhanced images in .*nowhere"):
            enhancer(f"folder:{tmp_path / 'nowhere'}")


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
        for name in ("glare@much", "glare=somewhere@much"):
            with pytest.raises(ValueError, match="number behind `glare@` but got 'much'"):
                enhancer(name)

    def test_identity_changes_with_the_source(self, own: str, tmp_path: Path) -> None:
        before = enhancer(f"{own}:invert").identity
        assert enhancer(f"{own}:invert").identity == before
        with (tmp_path / f"{own}.py").open("a") as file:
            file.write("# another thought\n")
        assert enhancer(f"{own}:invert").identity != before

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
