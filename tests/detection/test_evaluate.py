from collections.abc import Sequence

import numpy as np
import pytest
from skimage.filters import gaussian

from detection import Dataset, Detections, Sample, darken, evaluate, sample_set
from detection.dataset import Pixels
from detection.evaluate import psnr, ssim


def sample(
    boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, name: str = "x"
) -> Sample:
    return Sample(
        name,
        lambda: np.zeros((100, 100, 3), np.uint8),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd or [False] * len(labels)),
    )


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores), np.array(labels, dtype=np.int64)
    )


BOX = [0.0, 0.0, 50.0, 50.0]


class TestQuality:
    @pytest.fixture
    def pair(self) -> tuple[Pixels, Pixels]:
        image = sample_set().samples[3].load()[:64, :80]
        noise = np.random.default_rng(0).normal(0, 12, image.shape)
        return image, (image + noise).clip(0, 255).astype(np.uint8)

    def test_psnr(self, pair: tuple[Pixels, Pixels]) -> None:
        error = np.mean((pair[0].astype(float) - pair[1]) ** 2)
        assert psnr(pair[1], pair[0]) == pytest.approx(10 * np.log10(255**2 / error))

    def test_ssim(self, pair: tuple[Pixels, Pixels]) -> None:
        # Wang's formula written out; an 11×11 window is a radius of 5, cut off at 3.5 σ.
        def mean(x: np.ndarray) -> np.ndarray:
            return gaussian(x, sigma=1.5, truncate=3.5, channel_axis=-1, mode="reflect")

        x, y = (image.astype(float) for image in pair)
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        values = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        assert ssim(*pair) == pytest.approx(values[5:-5, 5:-5].mean(), abs=1e-5)


class Bright:
    """A detector that finds the bounding box of what is brighter than half."""

    names = ("sheep", "person")

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return [self.detect(image) for image in images]

    def detect(self, image: Pixels) -> Detections:
        y, x = np.nonzero(image[..., 0] > 127)
        if not len(x):
            return found([], [], [])
        box = [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]
        return found([box, box], [0, 1], [0.9, 0.9])


def square(level: int) -> Pixels:
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:60, 20:60] = level
    return image


def square_set() -> Dataset:
    people = np.array([10])
    boxes, crowd = np.array([[20.0, 20, 60, 60]]), np.array([False])
    return Dataset(
        (
            Sample("bright", lambda: square(200), boxes, people, crowd, "day", reference=lambda: square(220)),
            Sample("dim", lambda: square(100), boxes, people, crowd, "night", reference=lambda: square(220)),
        )
    )


class TestEvaluate:
    def test_rows(self) -> None:
        table = evaluate(
            square_set(),
            Bright(),
            {"raw": lambda image: image, "double": lambda image: np.minimum(image, 127) * 2},
        )
        assert list(table.columns[:7]) == ["light", "enhancer", "mAP50", "mAP50-95", "PSNR", "SSIM", "ms"]
        assert table[["light", "enhancer"]].to_numpy().tolist() == [
            ["day", "raw"],
            ["day", "double"],
            ["night", "raw"],
            ["night", "double"],
        ]
        assert table["mAP50"].tolist() == pytest.approx(
            [1, 1, 0, 1]
        )  # the dim square is found once it is brightened
        assert table["images"].tolist() == [1] * 4
        assert table["boxes"].tolist() == [1] * 4
        expected = [psnr(square(level), square(220)) for level in (200, 254, 100, 200)]
        assert table["PSNR"].tolist() == pytest.approx(expected)
        assert (table["detector_ms"] > 0).all()

    def test_enhancers_do_not_see_each_other(self) -> None:
        def vandal(image: Pixels) -> Pixels:
            image[:] = 255
            return image

        table = evaluate(square_set(), Bright(), {"vandal": vandal, "raw": lambda image: image})
        assert table["mAP50"].tolist() == pytest.approx([0, 1, 0, 0])

    def test_all_enhancers_get_the_same_noise(self) -> None:
        seen: dict[str, list[bytes]] = {"a": [], "b": []}

        def keep(name: str) -> object:
            return lambda image: seen[name].append(image.tobytes()) or image

        clean = sample_set()
        cat = Dataset(clean.samples[3:4])
        evaluate(darken(cat, "dark", "extreme"), Bright(), {name: keep(name) for name in seen})
        assert len(set(seen["a"])) == 3  # a warm-up on a corner, then two levels
        assert seen["a"] == seen["b"]

    def test_no_reference_no_psnr(self) -> None:
        data = Dataset((sample([BOX], [10]),))
        table = evaluate(data, Bright(), {"raw": lambda image: image})
        assert table[["PSNR", "SSIM"]].isna().all(axis=None)

    def test_unreadable_images_are_listed(self) -> None:
        def broken() -> Pixels:
            raise OSError("truncated")

        good = square_set().samples
        bad = Sample("bad", broken, good[0].boxes, good[0].labels, good[0].crowd)
        data = Dataset((bad, *good, bad), faults=("gone.png: missing",))
        table = evaluate(data, Bright(), {"raw": lambda image: image})
        assert table.attrs["faults"] == ["gone.png: missing", "bad: truncated"]
        assert table["images"].tolist() == [1, 1]
        with pytest.raises(ValueError, match=r"at least one readable image.*bad: truncated"):
            evaluate(Dataset((bad,)), Bright(), {"raw": lambda image: image})

    def test_detector_that_knows_no_class_of_the_set(self) -> None:
        class Blind(Bright):
            names = ("sheep",)

        with pytest.raises(ValueError, match=r"to know a class of the set .*People.* but it knows sheep"):
            evaluate(square_set(), Blind(), {"raw": lambda image: image})

    def test_wrong_enhancer(self) -> None:
        with pytest.raises(ValueError, match="enhancer `half` to return uint8"):
            evaluate(square_set(), Bright(), {"half": lambda image: image[::2]})

    def test_on_image(self) -> None:
        calls = []
        evaluate(
            square_set(),
            Bright(),
            {"raw": lambda image: image},
            on_image=lambda s, seen: calls.append((s.name, len(seen["raw"][1]))),
        )
        assert calls == [("bright", 1), ("dim", 0)]
