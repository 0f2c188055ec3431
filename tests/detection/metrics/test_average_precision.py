"""COCO's and VOC's average precision against pycocotools and against a plain loop."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection import Detections, Sample
from detection.metrics.average_precision import Matches, mean_average_precision
from tests.detection.squares import found, sample


def random_set(
    images: int, seed: int, most: int = 150, crowds: float = 0.1
) -> tuple[list[Sample], list[Detections]]:
    """Boxes of two of three classes, some crowds, some empty images, ties, and up to `most` detections per image."""
    rng = np.random.default_rng(seed)
    truth, results = [], []

    def draw(count: int) -> np.ndarray:
        corners = rng.uniform(0, 300, (count, 2))
        return np.hstack([corners, corners + rng.uniform(5, 150, (count, 2))])

    for number in range(images):
        count = int(rng.integers(0, 7))
        boxes, labels = draw(count), rng.integers(0, 2, count)
        truth.append(
            sample(boxes.tolist(), labels.tolist(), (rng.uniform(size=count) < crowds).tolist(), str(number))
        )
        count = int(rng.integers(0, most)) if rng.uniform() < 0.8 else 0
        guesses, guessed = draw(count), rng.integers(0, 3, count)
        if len(boxes):
            near = rng.uniform(size=count) < 0.3
            of = rng.integers(0, len(boxes), count)[near]
            guesses[near] = boxes[of] + rng.normal(0, 5, (len(of), 4))
            guesses[:, 2:] = np.maximum(guesses[:, 2:], guesses[:, :2] + 1)
            guessed[near] = labels[of]
        results.append(found(guesses.tolist(), guessed.tolist(), rng.beta(0.5, 2, count).round(2).tolist()))
    return truth, results


def pycocotools_on(truth: list[Sample], results: list[Detections], classes: int) -> np.ndarray:
    """The twelve figures, from files as its users have them."""
    marks, lines = [], []
    for number, (one, guess) in enumerate(zip(truth, results, strict=True), 1):
        for (x1, y1, x2, y2), label, crowd in zip(one.boxes, one.labels, one.crowd, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            about = {"image_id": number, "category_id": int(label), "iscrowd": int(crowd)}
            marks.append({"id": len(marks) + 1, **box, **about})
        for (x1, y1, x2, y2), label, score in zip(guess.boxes, guess.labels, guess.scores, strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            lines.append({"image_id": number, "category_id": int(label), **box})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(1, len(truth) + 1)],
            "annotations": marks,
            "categories": [{"id": number} for number in range(classes)],
        }
        coco.createIndex()
        direct = COCOeval(coco, coco.loadRes(lines), "bbox")
        direct.evaluate()
        direct.accumulate()
        direct.summarize()
    return np.array(direct.stats)


def voc_ap(truth: list[Sample], results: list[Detections], label: int) -> float:
    """The development kit's loop at an overlap of 0.50 and the area under all points, without crowds."""
    boxes = {i: one.boxes[one.labels == label] for i, one in enumerate(truth)}
    taken = {i: [False] * len(its) for i, its in boxes.items()}
    guesses = []
    for i, one in enumerate(results):
        mine = np.flatnonzero(one.labels == label)
        best = mine[np.argsort(-one.scores[mine], kind="stable")][:100]
        guesses += [(one.scores[j], i, one.boxes[j]) for j in best]
    hits = []
    for _, i, (x1, y1, x2, y2) in sorted(guesses, key=lambda guess: -guess[0]):
        best, which = 0.0, -1
        for j, (a1, b1, a2, b2) in enumerate(boxes[i]):
            inner = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
            overlap = inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner)
            if overlap > best:
                best, which = overlap, j
        hits.append(best >= 0.5 and not taken[i][which])
        if hits[-1]:
            taken[i][which] = True
    recall = np.cumsum(hits) / sum(map(len, boxes.values()))
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall, precision = np.r_[0, recall, 1], np.r_[0, precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return float(((recall[steps + 1] - recall[steps]) * precision[steps + 1]).sum())


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


class TestMatches:
    names = ("one", "two", "three")

    @pytest.mark.parametrize("seed", [0, 1])
    def test_equals_pycocotools(self, seed: int) -> None:
        truth, results = random_set(16, seed, most=400)
        counts = [np.bincount(guess.labels, minlength=3).max(initial=0) for guess in results]
        assert max(counts) > 100  # pycocotools leaves out some
        assert any(one.crowd.any() for one in truth)
        assert any(len(one.boxes) == 0 for one in truth)
        assert min(counts) == 0
        stats = pycocotools_on(truth, results, 3)
        matches = Matches.of(truth, results, 3)
        scores = matches.summary(self.names)
        figures = ("mAP50-95", "mAP50", "AP_small", "AP_medium", "AP_large", "AR")
        expected = stats[[0, 1, 3, 4, 5, 8]]
        assert [scores[name] for name in figures] == pytest.approx(expected, abs=1e-9)
        assert 0.01 < scores["AP_small"] < scores["mAP50"] < 1
        once = matches.resampled(np.ones((16, 1), dtype=int))[:, 0]
        assert once == pytest.approx(stats[[1, 0]], abs=1e-9)
        # The mean over the two classes that occur.
        assert np.isnan(scores["AP three"])
        assert np.mean([scores["AP50 one"], scores["AP50 two"]]) == pytest.approx(stats[1], abs=1e-9)
        assert np.mean([scores["AP one"], scores["AP two"]]) == pytest.approx(stats[0], abs=1e-9)

    def test_images_drawn_again_count_as_often(self) -> None:
        truth, results = random_set(12, 3, most=40)
        for i, one in enumerate(results):  # no ties between images, whose order would be open
            results[i] = Detections(one.boxes, one.scores + np.arange(len(one)) * 1e-6 + i * 1e-4, one.labels)
        rng = np.random.default_rng(0)
        draws = rng.integers(0, 12, (5, 12))
        counts = np.stack([np.bincount(draw, minlength=12) for draw in draws], axis=1)
        ours = Matches.of(truth, results, 3).resampled(counts)
        for draw, figures in zip(draws, ours.T, strict=True):
            copied = pycocotools_on([truth[i] for i in draw], [results[i] for i in draw], 3)
            assert figures == pytest.approx(copied[[1, 0]], abs=1e-9)

    def test_some_images(self) -> None:
        truth, results = random_set(12, 4, most=40)
        chosen = [7, 2, 3, 9, 10]
        part = Matches.of(truth, results, 3).among(chosen).summary(self.names)
        alone = Matches.of([truth[i] for i in chosen], [results[i] for i in chosen], 3).summary(self.names)
        for name, value in alone.items():
            assert part[name] == pytest.approx(value, abs=1e-9, nan_ok=True)

    def test_precision_over_recall(self) -> None:
        truth, results = random_set(12, 6, most=40)
        matches = Matches.of(truth, results, 3)
        curve = matches.precision_recall()
        assert curve.shape == (101,)
        assert curve.mean() == pytest.approx(matches.summary(self.names)["mAP50"])
        assert (np.diff(curve) <= 1e-12).all()  # at a higher recall it is never higher
        # Two of three boxes found, a false alarm between them.
        truth = [sample([BOX, [60, 60, 90, 90], [0, 60, 30, 90]], [0, 0, 0])]
        guess = [found([BOX, [70, 0, 99, 20], [60, 60, 90, 90]], [0, 0, 0], [0.9, 0.8, 0.7])]
        curve = Matches.of(truth, guess, 1).precision_recall()
        assert curve[[0, 33, 34, 66, 67, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3, 0, 0])
        assert np.isnan(Matches.of([sample([], [])], guess, 1).precision_recall()).all()

    def test_each_image(self) -> None:
        truth, results = random_set(12, 5, most=40)
        each = Matches.of(truth, results, 3).per_image()
        for value, one, guess in zip(each, truth, results, strict=True):
            assert value == pytest.approx(mean_average_precision([one], [guess], 3)[0], nan_ok=True)

    def test_voc(self) -> None:
        truth, results = random_set(16, 6, crowds=0)
        scores = Matches.of(truth, results, 3).summary(self.names)
        expected = np.mean([voc_ap(truth, results, label) for label in (0, 1)])
        assert scores["VOC_AP50"] == pytest.approx(expected, abs=1e-9)
        assert abs(scores["VOC_AP50"] - scores["mAP50"]) > 1e-4  # another definition

    def test_voc_does_not_look_for_the_second_best(self) -> None:
        # Two boxes that overlap by half; both detections overlap the left one most.
        truth = [sample([[0, 0, 30, 30], [10, 0, 40, 30]], [0, 0])]
        guess = [found([[0, 0, 30, 30], [4, 0, 34, 30]], [0, 0], [0.9, 0.8])]
        scores = Matches.of(truth, guess, 1).summary(["one"])
        assert scores["mAP50"] == pytest.approx(1)
        assert scores["VOC_AP50"] == pytest.approx(0.5)

    def test_voc_leaves_crowds_out(self) -> None:
        truth = [sample([BOX, FAR], [0, 0], [False, True])]
        guess = [found([FAR, BOX], [0, 0], [0.9, 0.8])]
        assert Matches.of(truth, guess, 1).summary(["one"])["VOC_AP50"] == pytest.approx(1)
