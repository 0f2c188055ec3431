import warnings
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from detection import Dataset, Detections, darken, enhancer, evaluate, read_test_sets, restore, sample_set
from detection.cache import Cache
from detection.data.core import Pixels, Sample
from detection.enhancers import Folder, raw
from detection.restoration import MEASURES, enhanced_image, overview
from glare import niqe
from glare.metrics import LPIPS

SHARED = Path(__file__).parents[3] / "shared"
VAL = SHARED / "data" / "lol_v1" / "val"
ALEX = SHARED / "weights" / "lpips_alex_full_v0.1.pth"
TRAINED = Path(__file__).parents[2] / "glare" / "pretrained" / "glare-tiny"

CLASSICS = {name: enhancer(name) for name in ("gamma", "histogram")}


@pytest.fixture
def night() -> Dataset:
    """Two of the built-in photographs, windows of them, darkened."""
    clean = sample_set()
    cut = [
        replace(sample, load=lambda load=sample.load: load()[:200, :240].copy())
        for sample in clean.samples[2:4]
    ]
    return darken(replace(clean, samples=tuple(cut)), "dark", "mild")


@pytest.fixture(scope="module")
def chance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole network of LPIPS with chance weights."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).state_dict(), file)
    return file


def package(file: Path) -> nn.Module:
    """The `lpips` package's own network, with the tensors of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval()


def independent(image: np.ndarray, reference: np.ndarray, network: nn.Module) -> list[float]:
    """PSNR, SSIM and LPIPS by scikit-image and `lpips`, of uint8, or of float in [0,1]."""
    top = 255 if image.dtype == np.uint8 else 1.0
    x, y = (torch.from_numpy(i / top).permute(2, 0, 1)[None].float() * 2 - 1 for i in (image, reference))
    with torch.no_grad():
        distance = network(x, y).item()
    return [
        peak_signal_noise_ratio(reference, image, data_range=top),
        structural_similarity(
            reference,
            image,
            data_range=top,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        ),
        distance,
    ]


def aligned(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    grey = np.array([0.299, 0.587, 0.114])
    ratio = (reference / 255 @ grey).mean() / (image / 255 @ grey).mean()
    return np.clip(image / 255 * ratio, 0, 1)


def agrees(data: Dataset, file: Path) -> None:
    """Every figure of gamma and histogram equalisation, and their means, are those of the other libraries."""
    found = restore(data, CLASSICS, gt_mean=True, lpips=LPIPS(file))
    assert found.faults == ()
    network = package(file)
    images = found.images().to_dict("records")
    expected: dict[str, list[list[float]]] = {name: [] for name in CLASSICS}
    for row, record in zip(images, found.records, strict=True):
        sample = data.samples[record.sample]
        assert sample.reference
        dark, reference = sample.load(), sample.reference()
        made = CLASSICS[record.enhancer](dark)
        if record.enhancer == "gamma":
            assert np.array_equal(made, (255 * (dark / 255) ** 0.45).round())
        plain = independent(made, reference, network)
        answer = independent(aligned(made, reference), reference / 255, network)
        expected[record.enhancer].append([*plain, *answer])
        for measure, value, tolerance in zip(
            ("PSNR", "SSIM", "LPIPS"), plain, (1e-6, 1e-6, 1e-5), strict=True
        ):
            assert row[measure] == pytest.approx(value, abs=tolerance)
        for measure, value in zip(("PSNR", "SSIM", "LPIPS"), answer, strict=True):
            assert row[f"{measure} GT-mean"] == pytest.approx(value, abs=1e-5)
    table = found.table()
    for name, values in expected.items():
        row = table[table["enhancer"] == name].to_dict("records")[-1]
        means = np.mean(values, axis=0)
        names = ("PSNR", "SSIM", "LPIPS", "PSNR GT-mean", "SSIM GT-mean", "LPIPS GT-mean")
        assert [row[name] for name in names] == pytest.approx(means.tolist(), abs=1e-5)


def test_figures_are_those_of_scikit_image_and_lpips(night: Dataset, chance: Path) -> None:
    agrees(night, chance)


@pytest.mark.skipif(
    not (VAL.is_dir() and ALEX.is_file()),
    reason="needs ../shared/data/lol_v1/val and ../shared/weights/lpips_alex_full_v0.1.pth",
)
def test_figures_on_lol_are_those_of_scikit_image_and_lpips() -> None:
    lol = read_test_sets(VAL)
    assert len(lol) == 30
    agrees(replace(lol, samples=lol.samples[::15]), ALEX)


class Blind:
    names = ("cat",)

    def __call__(self, images: list[Pixels]) -> list[Detections]:
        return [Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64)) for _ in images]


def test_the_harness_of_detection_has_the_same_figures(night: Dataset, chance: Path) -> None:
    network = LPIPS(chance)
    seen = evaluate(night, Blind(), CLASSICS, lpips=network)
    measured = restore(night, CLASSICS, lpips=network).table()
    # Bit by bit: the same images through the same functions.
    for column in ("PSNR", "SSIM", "LPIPS"):
        assert seen[column].tolist() == measured[column].tolist()
    assert seen["light"].tolist() == measured["set"].tolist() == ["dark"] * 2 + ["mild"] * 2 + ["all"] * 2


class TestTable:
    def test_plain_figures_alone_by_default(self, night: Dataset) -> None:
        found = restore(night, {"raw": raw})
        assert found.measures == ("PSNR", "SSIM")
        assert not [column for column in found.table() if "GT-mean" in str(column)]

    def test_gt_mean_stands_beside_the_plain_figure_with_the_row_of_gamma(self, night: Dataset) -> None:
        found = restore(night, {"raw": raw}, gt_mean=True)
        assert found.measures == ("PSNR", "PSNR GT-mean", "SSIM", "SSIM GT-mean")
        assert found.table()["enhancer"].tolist() == ["raw", "gamma"] * 3
        again = restore(night, {"gamma": raw}, gt_mean=True)  # somebody's own gamma is not replaced
        assert again.enhancers == {"gamma": raw}

    def test_intervals_are_of_draws_of_scenes(self) -> None:
        grey = np.full((16, 16, 3), 100, np.uint8)

        def sample(name: str, scene: str, off: int) -> Sample:
            return replace(
                sample_set().samples[0],
                name=name,
                load=lambda: grey + np.uint8(off),
                reference=lambda: grey,
                reference_path=Path(scene),
                light="set",
            )

        # Five scenes at three exposures and five at one.
        exposures = [(f"{i}{scene}", scene, 1 + i) for scene in "abcde" for i in range(3)]
        exposures += [(f"0{scene}", scene, 8) for scene in "fghij"]
        data = Dataset(tuple(sample(*exposure) for exposure in exposures))
        (row,) = restore(data, {"raw": raw}).table().to_dict("records")
        of = [20 * np.log10(255 / off) for *_, off in exposures]
        assert row["PSNR"] == pytest.approx(np.mean(of))
        # Written out: the mean of as many scenes of each kind as a draw has.
        bright = np.random.default_rng(0).binomial(10, 0.5, size=20000)
        sums = [np.sum(of[:3]), of[-1]]
        draws = (bright * sums[0] + (10 - bright) * sums[1]) / (3 * bright + (10 - bright))
        ends = [np.quantile(draws, end) for end in (0.025, 0.975)]
        assert [row["PSNR_low"], row["PSNR_high"]] == pytest.approx(ends, abs=0.3)
        (row,) = restore(replace(data, samples=data.samples[:-1]), {"raw": raw}).table().to_dict("records")
        assert np.isnan([row["PSNR_low"], row["PSNR_high"]]).all()

    def test_few_scenes_have_no_interval(self, night: Dataset) -> None:
        table = restore(night, {"raw": raw}).table()
        assert np.isnan(table["PSNR_low"]).all()
        assert overview(table)["PSNR"].tolist() == [f"{value:.2f}" for value in table["PSNR"]]

    def test_as_it_is_read(self, night: Dataset) -> None:
        table = restore(night, CLASSICS).table()
        table["SSIM_low"], table["SSIM_high"] = table["SSIM"] - 0.01, table["SSIM"] + 0.02
        read = overview(table)
        assert list(read) == ["set", "enhancer", "PSNR", "SSIM", "ms", "MB", "Mparams", "GFLOP", "images"]
        row = table.to_dict("records")[0]
        assert read["SSIM"][0] == f"{row['SSIM']:.3f} [{row['SSIM_low']:.3f}, {row['SSIM_high']:.3f}]"
        assert row["ms"] > 0
        assert np.isnan([row["Mparams"], row["GFLOP"]]).all()


class TestWithoutReference:
    def test_niqe(self, night: Dataset) -> None:
        alone = [replace(sample, reference=None, reference_path=None) for sample in night.samples]
        found = restore(replace(night, samples=tuple(alone)), {"raw": raw, **CLASSICS}, gt_mean=True)
        assert found.measures == ("NIQE",)
        assert set(MEASURES) > {"NIQE"}
        for row, record in zip(found.images().to_dict("records"), found.records, strict=True):
            made = found.enhancers[record.enhancer](night.samples[record.sample].load())
            expected = niqe.NIQE()(torch.from_numpy(made).permute(2, 0, 1)[None] / 255).item()
            assert row["NIQE"] == pytest.approx(expected, rel=1e-4)

    def test_what_niqe_can_not_judge(self, night: Dataset) -> None:
        good = replace(night.samples[0], reference=None)
        black = replace(good, name="black", load=lambda: np.zeros((200, 200, 3), np.uint8))
        small = replace(good, name="small", load=lambda: np.zeros((95, 300, 3), np.uint8))
        found = restore(Dataset((good, black, small)), {"raw": raw})
        assert len(found.samples) == 1
        assert found.faults[0] == "black (dark): NIQE: ValueError: less than two blocks of 96×96 have grain"
        assert (
            "NIQE: ValueError: Expected images of at least 96×192 or 192×96 but got (95, 300)"
            in found.faults[1]
        )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_perfect_results(night: Dataset) -> None:
    perfect = replace(
        night, samples=tuple(replace(s, load=s.reference) for s in night.samples if s.reference)
    )
    table = restore(perfect, {"raw": raw}).table()
    assert np.isposinf(table["PSNR"]).all()
    assert np.isnan(table["PSNR_low"]).all()
    assert (table["SSIM"] == 1).all()
    assert overview(table)["PSNR"].tolist() == ["inf"] * 3


def test_fingerprint_of_the_images(night: Dataset) -> None:
    def of(first: Sample) -> str:
        return restore(replace(night, samples=(first, *night.samples[1:])), {"raw": raw}).fingerprint

    first = night.samples[0]
    black = np.zeros((200, 240, 3), np.uint8)
    others = (first, replace(first, load=lambda: black), replace(first, reference=lambda: black))
    assert len({of(sample) for sample in others}) == 3
    assert of(first) == of(first)


class TestFaults:
    @pytest.mark.parametrize(
        ("side", "message"),
        [
            (10, "SSIM: ValueError: Expected images of at least 11×11 but got 10×10"),
            (30, "LPIPS: ValueError: Expected images of at least 31×31"),
        ],
    )
    def test_images_smaller_than_a_window(
        self, night: Dataset, chance: Path, side: int, message: str
    ) -> None:
        def small() -> Pixels:
            return np.zeros((side, side, 3), np.uint8)

        tiny = replace(night.samples[0], name="tiny", load=small, reference=small)
        data = replace(night, samples=(tiny, night.samples[1]))
        found = restore(data, {"gamma": CLASSICS["gamma"]}, lpips=LPIPS(chance))
        (fault,) = found.faults
        assert fault.startswith("tiny (dark): ")
        assert message in fault
        assert len(found.samples) == 1
        with pytest.raises(ValueError, match="at least one sound image"):
            restore(replace(night, samples=(tiny,)), {"gamma": CLASSICS["gamma"]}, lpips=LPIPS(chance))

    def test_what_one_enhancer_fails_on_counts_for_none(self, night: Dataset) -> None:
        dark = night.samples[0].load()

        def fails(image: Pixels) -> Pixels:
            if np.array_equal(image, dark):
                raise RuntimeError("no luck")
            return image

        seen: list[str] = []
        found = restore(night, {"raw": raw, "fails": fails}, on_image=lambda s, _: seen.append(s.name))
        assert seen == [sample.name for sample in night.samples[1:]]
        assert found.faults == (f"{night.samples[0].name} (dark): enhancer `fails`: RuntimeError: no luck",)
        assert found.table()["images"].tolist() == [2, 2, 1, 1, 3, 3]

    def test_an_enhancer_that_always_fails_is_left_out(self, night: Dataset) -> None:
        def fails(image: Pixels) -> Pixels:
            raise RuntimeError("no luck")

        found = restore(night, {"raw": raw, "fails": fails})
        assert list(found.enhancers) == ["raw"]
        assert len(found.samples) == 4
        (fault,) = found.faults
        assert fault.startswith("enhancer `fails` is left out")
        assert fault.endswith("RuntimeError: no luck")
        with pytest.raises(ValueError, match="no luck"):
            restore(night, {"fails": fails})

    def test_folders_of_results(self, tmp_path: Path) -> None:
        root, theirs = tmp_path / "set", tmp_path / "theirs"
        for folder in (root / "low", root / "high", theirs):
            folder.mkdir(parents=True)
        for name in ("1", "2", "3", "4"):
            image = sample_set().samples[3].load()[:40, :50]
            Image.fromarray(image // 4).save(root / "low" / f"{name}.png")
            Image.fromarray(image).save(root / "high" / f"{name}.png")
            if name != "2":
                Image.fromarray(image // 2 if name == "1" else image[: 40 - (name == "4")]).save(
                    theirs / f"{name}.png", format="JPEG" if name == "3" else "PNG"
                )
        found = restore(read_test_sets(root), {"raw": raw, "theirs": Folder(theirs)})
        assert [sample.name for sample in found.samples] == ["1.png"]
        missing, compressed, size = found.faults
        assert "2.png" in missing
        assert "expected one image of that name" in missing
        assert "3.png is a JPEG" in compressed
        assert "to return uint8 (40, 50, 3) but got uint8 (39, 50, 3)" in size
        row = found.table().to_dict("records")[1]
        assert row["PSNR"] == pytest.approx(peak_signal_noise_ratio(image, image // 2))
        assert np.isnan(row["ms"])


def test_a_killed_run_goes_on(night: Dataset, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        restore(night, CLASSICS, cache=cache, on_image=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    assert len(kept) == 2
    found = restore(night, CLASSICS, cache=cache)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(list(tmp_path.rglob("*.png"))) == 8
    for record in found.records:
        made = CLASSICS[record.enhancer](night.samples[record.sample].load())
        assert np.array_equal(enhanced_image(found, record), made)
