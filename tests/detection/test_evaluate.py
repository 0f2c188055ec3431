import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from skimage.filters import gaussian

from detection import Dataset, Detections, Sample, darken, evaluate, sample_set
from detection.dataset import Pixels
from detection.evaluate import psnr, ssim
from detection.scores import mean_average_precision


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


ONE = pytest.approx((1.0, 1.0))
BOX, FAR = [0.0, 0.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


class TestMeanAveragePrecision:
    def test_one_box_found(self) -> None:
        # pycocotools would give 0 here if our only annotation had the id 0.
        assert mean_average_precision([sample([BOX], [0])], [found([BOX], [0], [0.9])], 12) == ONE

    def test_half_of_the_boxes_found(self) -> None:
        # Precision is 1 up to a recall of 0.5: 51 of the 101 recall points.
        map50, map50_95 = mean_average_precision([sample([BOX, FAR], [0, 0])], [found([BOX], [0], [0.9])], 12)
        assert map50 == pytest.approx(51 / 101)
        assert map50_95 == pytest.approx(51 / 101)

    def test_false_alarm_above_the_hit(self) -> None:
        # The hit comes second: precision 1/2 at every recall.
        boxes = found([FAR, BOX], [0, 0], [0.9, 0.8])
        assert mean_average_precision([sample([BOX], [0])], [boxes], 12)[0] == pytest.approx(0.5)

    def test_loose_box_counts_at_low_overlap_only(self) -> None:
        # 31 of 50 columns overlap: IoU 0.62 passes 0.50, 0.55 and 0.60 of the ten thresholds.
        loose = found([[0, 0, 31, 50]], [0], [0.9])
        map50, map50_95 = mean_average_precision([sample([BOX], [0])], [loose], 12)
        assert map50 == pytest.approx(1.0)
        assert map50_95 == pytest.approx(0.3)

    def test_mean_is_over_classes_that_occur(self) -> None:
        truth = [sample([BOX, FAR], [0, 5])]
        boxes = found([BOX, FAR], [0, 7], [0.9, 0.9])  # class 5 is missed, class 7 does not occur
        assert mean_average_precision(truth, [boxes], 12)[0] == pytest.approx(0.5)

    def test_crowd_is_neither_hit_nor_miss(self) -> None:
        truth = [sample([BOX, FAR], [0, 0], [False, True])]
        boxes = found([FAR, BOX], [0, 0], [0.9, 0.8])
        assert mean_average_precision(truth, [boxes], 12)[0] == pytest.approx(1.0)

    def test_nothing_found(self) -> None:
        assert mean_average_precision([sample([BOX], [0])], [found([], [], [])], 12) == (0.0, 0.0)

    def test_nothing_to_find(self) -> None:
        for truth in (sample([], []), sample([BOX], [0], [True])):
            assert np.isnan(mean_average_precision([truth], [found([BOX], [0], [0.9])], 12)).all()

    def test_false_alarm_in_an_image_without_boxes(self) -> None:
        truth = [sample([BOX], [0]), sample([], [])]
        boxes = [found([BOX], [0], [0.8]), found([FAR], [0], [0.9])]
        assert mean_average_precision(truth, boxes, 12)[0] == pytest.approx(0.5)

    def test_lengths(self) -> None:
        with pytest.raises(ValueError, match="Expected 1 detections"):
            mean_average_precision([sample([BOX], [0])], [], 12)

    def test_equals_pycocotools_on_files(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        truth, results, images, marks, lines = [], [], [], [], []
        for image in range(1, 21):
            corners = rng.uniform(0, 60, (6, 2))
            boxes = np.hstack([corners, corners + rng.uniform(10, 40, (6, 2))])
            labels = rng.integers(0, 3, 6)
            guesses, scores = boxes + rng.normal(0, 3, boxes.shape), rng.uniform(size=6)
            guessed = np.where(rng.uniform(size=6) < 0.8, labels, rng.integers(0, 3, 6))
            truth.append(sample(boxes.tolist(), labels.tolist()))
            results.append(found(guesses.tolist(), guessed.tolist(), scores.tolist()))
            images.append({"id": image})
            for box, label in zip(boxes, labels, strict=True):
                w, h = box[2] - box[0], box[3] - box[1]
                marks.append(
                    {
                        "id": len(marks) + 1,
                        "image_id": image,
                        "category_id": int(label),
                        "bbox": [box[0], box[1], w, h],
                        "area": w * h,
                        "iscrowd": 0,
                    }
                )
            for box, label, score in zip(guesses, guessed, scores, strict=True):
                lines.append(
                    {
                        "image_id": image,
                        "category_id": int(label),
                        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                        "score": score,
                    }
                )
        categories = [{"id": number} for number in range(3)]
        (tmp_path / "truth.json").write_text(
            json.dumps({"images": images, "annotations": marks, "categories": categories})
        )
        (tmp_path / "found.json").write_text(json.dumps(lines))
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(tmp_path / "truth.json"))
            direct = COCOeval(coco, coco.loadRes(str(tmp_path / "found.json")), "bbox")
            direct.evaluate()
            direct.accumulate()
            direct.summarize()
        ours = mean_average_precision(truth, results, 3)
        assert 0.2 < ours[1] < ours[0] < 1
        assert ours == pytest.approx((direct.stats[1], direct.stats[0]), abs=1e-12)


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
