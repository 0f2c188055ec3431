import warnings
from dataclasses import replace
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

from detection import Dataset, Detections, Sample, enhancer, evaluate, read_test_sets, sample_set
from detection.cli import beside_gamma
from detection.data.core import Pixels
from detection.enhancers import raw
from detection.metrics.average_precision import Matches
from detection.metrics.image_quality import METRICS, Metric, by_name, gt_mean
from detection.metrics.image_quality import lpips as lpips_metric
from detection.report.tables import with_intervals
from detection.results import Results
from detection.runner import collect
from glare import niqe
from glare.metrics import LPIPS
from tests.detection.squares import Bright, lift, squares

SHARED = Path(__file__).parents[3] / "shared"
VAL = SHARED / "data" / "lol_v1" / "val"
ALEX = SHARED / "weights" / "lpips_alex_full_v0.1.pth"
TRAINED = Path(__file__).parents[2] / "glare" / "pretrained" / "glare-tiny"

CLASSICS = {name: enhancer(name) for name in ("gamma", "histogram")}


def both(*metrics: str | Metric) -> list[Metric]:
    """Each metric, and with GT-mean."""
    return [one for metric in by_name(metrics) for one in (metric, gt_mean(metric))]


def names(found: Results) -> tuple[str, ...]:
    return tuple(metric.name for metric in found.metrics)


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
    found = collect(data, CLASSICS, metrics=both("PSNR", "SSIM", lpips_metric(LPIPS(file))))
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
    metrics = ("PSNR", "SSIM", lpips_metric(LPIPS(chance)))
    seen = evaluate(night, CLASSICS, Blind(), metrics)
    measured = evaluate(night, CLASSICS, metrics=metrics)
    # Bit by bit: the same images through the same functions.
    for column in ("PSNR", "SSIM", "LPIPS"):
        assert seen[column].tolist() == measured[column].tolist()
    assert seen["light"].tolist() == measured["set"].tolist() == ["dark"] * 2 + ["mild"] * 2 + ["all"] * 2


class TestTable:
    def test_plain_figures_alone_by_default(self, night: Dataset) -> None:
        found = collect(night, {"raw": raw})
        assert names(found) == ("PSNR", "SSIM")
        assert not [column for column in found.table() if "GT-mean" in str(column)]

    def test_gt_mean_stands_beside_the_plain_figure_with_the_row_of_gamma(self, night: Dataset) -> None:
        found = collect(night, beside_gamma({"raw": raw}), metrics=both("PSNR", "SSIM"))
        assert names(found) == ("PSNR", "PSNR GT-mean", "SSIM", "SSIM GT-mean")
        assert found.table()["enhancer"].tolist() == ["raw", "gamma"] * 3
        again = collect(night, beside_gamma({"gamma": raw}))  # somebody's own gamma is not replaced
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
        (row,) = collect(data, {"raw": raw}).table().to_dict("records")
        of = [20 * np.log10(255 / off) for *_, off in exposures]
        assert row["PSNR"] == pytest.approx(np.mean(of))
        # Written out: the mean of as many scenes of each kind as a draw has.
        bright = np.random.default_rng(0).binomial(10, 0.5, size=20000)
        sums = [np.sum(of[:3]), of[-1]]
        draws = (bright * sums[0] + (10 - bright) * sums[1]) / (3 * bright + (10 - bright))
        ends = [np.quantile(draws, end) for end in (0.025, 0.975)]
        assert [row["PSNR_low"], row["PSNR_high"]] == pytest.approx(ends, abs=0.3)
        (row,) = collect(replace(data, samples=data.samples[:-1]), {"raw": raw}).table().to_dict("records")
        assert np.isnan([row["PSNR_low"], row["PSNR_high"]]).all()

    def test_few_scenes_have_no_interval(self, night: Dataset) -> None:
        table = collect(night, {"raw": raw}).table()
        assert np.isnan(table["PSNR_low"]).all()
        assert with_intervals(table)["PSNR"].tolist() == [f"{value:.2f}" for value in table["PSNR"]]

    def test_as_it_is_read(self, night: Dataset) -> None:
        table = collect(night, CLASSICS).table()
        table["SSIM_low"], table["SSIM_high"] = table["SSIM"] - 0.01, table["SSIM"] + 0.02
        read = with_intervals(table)
        assert list(read) == ["set", "enhancer", "PSNR", "SSIM", "ms", "MB", "Mparams", "GFLOP", "images"]
        row = table.to_dict("records")[0]
        assert read["SSIM"][0] == f"{row['SSIM']:.3f} [{row['SSIM_low']:.3f}, {row['SSIM_high']:.3f}]"
        assert row["ms"] > 0
        assert np.isnan([row["Mparams"], row["GFLOP"]]).all()


class TestWithoutReference:
    def test_niqe(self, night: Dataset) -> None:
        alone = [replace(sample, reference=None, reference_path=None) for sample in night.samples]
        found = collect(replace(night, samples=tuple(alone)), {"raw": raw, **CLASSICS}, metrics=["NIQE"])
        assert names(found) == ("NIQE (own model)",)
        assert set(METRICS) > {"NIQE"}
        for row, record in zip(found.images().to_dict("records"), found.records, strict=True):
            made = found.enhancers[record.enhancer](night.samples[record.sample].load())
            expected = niqe.NIQE()(torch.from_numpy(made).permute(2, 0, 1)[None] / 255).item()
            assert row["NIQE (own model)"] == pytest.approx(expected, rel=1e-4)

    def test_what_niqe_can_not_judge(self, night: Dataset) -> None:
        good = replace(night.samples[0], reference=None)
        black = replace(good, name="black", load=lambda: np.zeros((200, 200, 3), np.uint8))
        small = replace(good, name="small", load=lambda: np.zeros((95, 300, 3), np.uint8))
        found = collect(Dataset((good, black, small)), {"raw": raw}, metrics=["NIQE"])
        assert len(found.samples) == 1
        assert (
            found.faults[0]
            == "black (dark): NIQE (own model): ValueError: less than two blocks of 96×96 have grain"
        )
        assert (
            "NIQE (own model): ValueError: Expected images of at least 96×192 or 192×96 but got (95, 300)"
            in found.faults[1]
        )


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_perfect_results(night: Dataset) -> None:
    references = {s.load().tobytes(): s.reference() for s in night.samples if s.reference}
    table = collect(night, {"perfect": lambda image: references[image.tobytes()]}).table()
    assert np.isposinf(table["PSNR"]).all()
    assert np.isnan(table["PSNR_low"]).all()
    assert (table["SSIM"] == 1).all()
    assert with_intervals(table)["PSNR"].tolist() == ["inf"] * 3


def test_fingerprint_of_the_images(night: Dataset) -> None:
    def of(first: Sample) -> str:
        return collect(replace(night, samples=(first, *night.samples[1:])), {"raw": raw}).fingerprint

    first = night.samples[0]
    black = np.zeros((200, 240, 3), np.uint8)
    others = (first, replace(first, load=lambda: black), replace(first, reference=lambda: black))
    assert len({of(sample) for sample in others}) == 3
    assert of(first) == of(first)


class TestGroups:
    def groups(self, data: Dataset) -> list[tuple[object, ...]]:
        table = evaluate(data, {"raw": raw}, Bright(), resamples=0)
        keys = [key for key in ("light", "place", "images") if key in table]
        return list(table[keys].itertuples(index=False, name=None))

    def test_one_light(self) -> None:
        assert self.groups(squares()) == [("day", 6)]

    def test_lights_and_all(self) -> None:
        assert self.groups(squares("day", "dusk")) == [("day", 6), ("dusk", 6), ("all", 12)]

    def test_places(self) -> None:
        found = self.groups(squares(places=("outdoor", "indoor", "")))
        assert found == [("day", "all", 6), ("day", "indoor", 2), ("day", "outdoor", 2)]
        found = self.groups(squares("day", "dusk", places=("outdoor", "indoor")))
        lights = [("day", "all", 6), ("dusk", "all", 6)]
        assert found == [*lights, ("all", "indoor", 6), ("all", "outdoor", 6), ("all", "all", 12)]

    def test_one_place_is_no_group(self) -> None:
        assert self.groups(squares(places=("indoor",))) == [("day", 6)]


class TestAgainstRaw:
    def test_columns(self) -> None:
        enhancers = {"raw": raw, "same": lambda image: image, "lift": lift, "black": np.zeros_like}
        table = evaluate(squares(count=10), enhancers, Bright()).set_index("enhancer")
        assert table["verdict"].to_dict() == {
            "raw": "",
            "same": "within noise",
            "lift": "better",
            "black": "worse",
        }
        assert np.isnan(table["dmAP50"]["raw"])
        assert table["dmAP50"]["lift"] == pytest.approx(table["mAP50"]["lift"] - table["mAP50"]["raw"])
        for name in ("dmAP50", "dmAP50-95"):
            assert 0 < table[f"{name}_low"]["lift"] < table[name]["lift"] < table[f"{name}_high"]["lift"]

    def test_without_raw_nothing_is_compared(self) -> None:
        table = evaluate(squares(), {"lift": lift}, Bright())
        assert table["verdict"].tolist() == [""]
        assert table["dmAP50"].isna().all()

    def test_figures_are_those_of_the_scores(self) -> None:
        data = squares("day", "dusk")
        results = collect(data, {"raw": raw, "lift": lift}, Bright())
        rows = results.table(resamples=0).set_index(["light", "enhancer"])
        records = [record for record in results.records if record.enhancer == "lift"]
        dusk = [record for record in records if data.samples[record.sample].light == "dusk"]
        truth = [data.samples[record.sample] for record in dusk]
        expected = Matches.of(truth, [record.found for record in dusk], 12).summary(data.classes)
        for name in ("VOC_AP50", "AR", "AP_medium", "AP50 People", "AP People"):
            assert rows[name]["dusk", "lift"] == pytest.approx(expected[name])
        assert rows["AP_small"].isna().all()
        assert rows["AP Cat"].isna().all()


def test_precision_over_recall() -> None:
    results = collect(squares(), {"raw": raw, "lift": lift}, {"b": Bright()})
    curves, table = results.precision_recall(), results.table()
    assert list(curves) == ["detector", "enhancer", "recall", "precision"]
    assert len(curves) == 2 * 101
    means = curves.groupby("enhancer")["precision"].mean()
    for row in table.to_dict("records"):
        assert means[row["enhancer"]] == pytest.approx(row["mAP50"])


def test_fingerprint_of_the_images_and_labels() -> None:
    def of(data: Dataset) -> str:
        return collect(data, {"raw": raw}, Bright()).fingerprint

    data = squares()
    first = data.samples[0]
    assert of(data) == of(squares())
    others = (
        replace(first, load=lambda: np.zeros((100, 100, 3), np.uint8)),
        replace(first, boxes=first.boxes + 1),
        replace(first, name="other"),
    )
    assert len({of(replace(data, samples=(other, *data.samples[1:]))) for other in others} | {of(data)}) == 4


def test_a_mean_is_over_what_can_be_judged_behind_every_enhancer() -> None:
    """Otherwise rows would be of different images; and what cannot be judged is still there to be detected."""

    def level(image: Pixels) -> float:
        if image.max() > 205:
            raise ValueError("too bright")
        return float(image.max())

    data = squares(count=4)  # of brightness 70, 201, 72, 203
    alone = replace(data, samples=tuple(replace(one, reference=None) for one in data.samples))
    metric = Metric("level", level, needs_reference=False)
    table = evaluate(
        alone, {"raw": raw, "brighter": lambda image: image + np.uint8(4)}, Bright(), [metric]
    ).set_index("enhancer")
    assert table["level"].to_dict() == {"raw": np.mean([70, 201, 72]), "brighter": np.mean([74, 205, 76])}
    assert table["images"].tolist() == [4, 4]
