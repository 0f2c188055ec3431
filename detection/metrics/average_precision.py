"""Average precision: detections matched to the truth by pycocotools once, then summed over any draw of images.

COCO: Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
VOC: Everingham et al., "The Pascal Visual Object Classes Challenge: A Retrospective", IJCV 2015.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import csr_array

from detection.data.core import Detections, Sample

SIZES = ("all", "small", "medium", "large")
"""COCO's ranges of a box's area: any, below 32², up to 96², and above."""
RECALLS: NDArray[np.float64] = COCOeval(iouType="bbox").params.recThrs
"""The 101 recalls at which COCO reads the precision."""
_AT_ONCE = 2**21
"""How many numbers a resampling holds at once."""


@dataclass(frozen=True)
class Ranked:
    """All detections of one class over all images, sorted by score, at T IoU thresholds.

    Attributes:
        image: (D,) in which image each lies.
        true_positive: (T, D) whether it found a box that was to be found.
        ignored: (T, D) whether it counts neither as a true positive nor as a false one.
        positives: (I,) how many boxes were to be found in each image.
    """

    image: NDArray[np.int64]
    true_positive: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    positives: NDArray[np.int64]

    def among(self, images: NDArray[np.int64]) -> Ranked:
        """Keep some of the images, numbered anew in the order they are given."""
        number = np.full(len(self.positives), -1)
        number[images] = np.arange(len(images))
        image = number[self.image]
        kept = image >= 0
        return Ranked(image[kept], self.true_positive[:, kept], self.ignored[:, kept], self.positives[images])

    def curves(self, counts: NDArray[np.integer], thresholds: slice) -> list[Curve]:
        """Return the precision over the recall at each IoU threshold, where image i was drawn ``counts[i]`` times.

        Args:
            counts: (I, R) for R draws at once.
            thresholds: which of the T.
        """
        places_of = [np.flatnonzero(true) for true in self.true_positive[thresholds]]
        # Precision falls from one true positive to the next, so that only the counts of true positives and of
        # detections there matter. The detections are counted once for all thresholds.
        places = np.unique(np.concatenate(places_of))
        image = self.image[: places[-1] + 1 if len(places) else 0]
        first = np.searchsorted(places, np.arange(len(image)))
        ones = np.ones(len(image), dtype=counts.dtype)
        between = csr_array((ones, (first, image)), shape=(len(places), len(counts)))
        upto_place = np.cumsum(between @ counts, axis=0)
        positives = self.positives @ counts
        curves = []
        for place, ignored in zip(places_of, self.ignored[thresholds], strict=True):
            detections = upto_place[np.searchsorted(places, place)]
            if ignored.any():
                skipped = np.flatnonzero(ignored)
                upto = np.cumsum(counts[self.image[skipped]], axis=0)
                upto = np.concatenate([np.zeros_like(upto[:1]), upto])
                detections = detections - upto[np.searchsorted(skipped, place)]
            curves.append(Curve(np.cumsum(counts[self.image[place]], axis=0), detections, positives))
        return curves


@dataclass(frozen=True)
class Curve:
    """Precision over recall at one IoU threshold, for R draws of images.

    Attributes:
        true_positives: (H, R) how many boxes are found by the time of each true positive.
        detections: (H, R) how many detections there are by then.
        positives: (R,) how many boxes there are.
    """

    true_positives: NDArray[np.integer]
    detections: NDArray[np.integer]
    positives: NDArray[np.integer]

    @property
    def recall(self) -> NDArray[np.float64]:
        """Recall, (H, R) in [0,1]."""
        recall: NDArray[np.float64] = self.true_positives / np.maximum(self.positives, 1)
        return recall

    @property
    def precision(self) -> NDArray[np.float64]:
        """Best precision at each recall or a higher one, (H, R) in [0,1]."""
        precision = self.true_positives / (self.detections + np.spacing(1))
        best: NDArray[np.float64] = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
        return best

    @property
    def at_recalls(self) -> NDArray[np.float64]:
        """Precision at `RECALLS`, (101, R), whose mean is `coco`; 0 beyond the final recall."""
        precision = np.concatenate([self.precision, np.zeros((1, len(self.positives)))])
        first = [np.searchsorted(recall, RECALLS) for recall in self.recall.T]
        return np.take_along_axis(precision, np.stack(first, axis=1), axis=0)

    @property
    def coco(self) -> NDArray[np.float64]:
        """COCO's average precision, (R,), the mean at 101 recalls; NaN where nothing is to be found."""
        # The number of recalls that each true positive reaches.
        reached = np.searchsorted(RECALLS, self.recall, side="right")
        return self._mean(np.diff(reached, axis=0, prepend=0) / len(RECALLS))

    @property
    def voc(self) -> NDArray[np.float64]:
        """VOC's average precision since 2010, (R,), the area under all points; NaN where nothing is to be found."""
        return self._mean(np.diff(self.recall, axis=0, prepend=0))

    @property
    def final_recall(self) -> NDArray[np.float64]:
        """Recall with all detections, (R,); NaN where nothing is to be found."""
        last = self.true_positives[-1] if len(self.true_positives) else np.zeros_like(self.positives)
        return np.where(self.positives > 0, last / np.maximum(self.positives, 1), np.nan)

    def _mean(self, width: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(self.positives > 0, (self.precision * width).sum(axis=0), np.nan)


@dataclass(frozen=True)
class Matches:
    """Detections in a set of images, matched to the truth.

    Attributes:
        coco: for each of `SIZES`, a `Ranked` per class at the IoU thresholds 0.50, 0.55, ... 0.95.
        voc: a `Ranked` per class at the IoU threshold of 0.50, matched as VOC does.
    """

    coco: tuple[tuple[Ranked, ...], ...]
    voc: tuple[Ranked, ...]

    @classmethod
    def of(cls, truth: Sequence[Sample], found: Sequence[Detections], classes: int) -> Matches:
        """Match the best 100 detections of each image and class by pycocotools.

        A detection goes to the free box that it overlaps most. VOC's differs in this: it goes to the box that it
        overlaps most, and is a false alarm if that one is taken.

        Args:
            truth: the labelled images. A box's size is its area, as there are no outlines.
            found: what was found in each of them, labels numbering the same classes.
            classes: how many classes there are.

        Raises:
            ValueError: if the two are not of the same length.
        """
        if len(truth) != len(found):
            raise ValueError(f"Expected {len(truth)} detections, one per image, but got {len(found)}.")
        with contextlib.redirect_stdout(io.StringIO()):
            scored = COCOeval(
                _coco([(s.boxes, s.labels, {"iscrowd": s.crowd}) for s in truth], classes),
                _coco([(f.boxes, f.labels, {"score": f.scores}) for f in found], classes),
                iouType="bbox",
            )
            scored.evaluate()
        images = len(truth)
        # pycocotools' list runs over classes, then sizes, then images.
        one = [scored.evalImgs[start : start + images] for start in range(0, len(scored.evalImgs), images)]
        sizes = len(SIZES)
        return cls(
            tuple(tuple(_ranked(per_image) for per_image in one[size::sizes]) for size in range(sizes)),
            tuple(
                _ranked([match and _as_voc(match, scored) for match in per_image])
                for per_image in one[::sizes]
            ),
        )

    def among(self, images: Sequence[int] | NDArray[np.int64]) -> Matches:
        """Keep some of the images, by number."""
        chosen = np.asarray(images, dtype=np.int64)
        return Matches(
            tuple(tuple(ranked.among(chosen) for ranked in size) for size in self.coco),
            tuple(ranked.among(chosen) for ranked in self.voc),
        )

    def summary(self, classes: Sequence[str]) -> dict[str, float]:
        """Return the figures of COCO and VOC, each in [0,1] and NaN where nothing is to be found.

        Args:
            classes: their names.

        Returns:
            ``mAP50``, ``mAP50-95``, ``VOC_AP50``, ``AR`` (recall with 100 detections per image and class, the mean
            over the thresholds), ``AP_small``, ``AP_medium`` and ``AP_large`` (COCO's AP by size), then for each
            class ``AP50 <class>`` and ``AP <class>`` (over the thresholds 0.50 to 0.95). The means are over the
            classes that occur.
        """
        once = np.ones((len(self.voc[0].positives), 1), dtype=np.int64)
        every = slice(None)
        curves = [[ranked.curves(once, every) for ranked in size] for size in self.coco]
        ap = np.array([[[c.coco[0] for c in ranked] for ranked in size] for size in curves])
        found = np.array([[c.final_recall[0] for c in ranked] for ranked in curves[0]])
        voc = np.array([ranked.curves(once, every)[0].voc[0] for ranked in self.voc])
        by_size = {f"AP_{name}": _mean(ap[i]) for i, name in enumerate(SIZES) if i}
        by_class = {
            f"{kind} {name}": float(value)
            for kind, values in (("AP50", ap[0, :, 0]), ("AP", ap[0].mean(axis=1)))
            for name, value in zip(classes, values, strict=True)
        }
        return {
            "mAP50": _mean(ap[0, :, 0]),
            "mAP50-95": _mean(ap[0]),
            "VOC_AP50": _mean(voc),
            "AR": _mean(found),
            **by_size,
            **by_class,
        }

    def precision_recall(self) -> NDArray[np.float64]:
        """Return the precision at `RECALLS` and an IoU threshold of 0.50, (101,), the mean over the classes that occur.

        The mean of these is mAP50. NaN where there is nothing to find.
        """
        once = np.ones((len(self.voc[0].positives), 1), dtype=np.int64)
        curves = [ranked.curves(once, slice(0, 1))[0] for ranked in self.coco[0] if ranked.positives.any()]
        if not curves:
            return np.full(len(RECALLS), np.nan)
        mean: NDArray[np.float64] = np.mean([curve.at_recalls[:, 0] for curve in curves], axis=0)
        return mean

    def per_image(self) -> NDArray[np.float64]:
        """Return mAP50 of each image on its own, (I,); NaN where there is nothing to find."""
        once = np.ones((1, 1), dtype=np.int64)
        total, occurs = np.zeros((2, len(self.voc[0].positives)))
        for ranked in self.coco[0]:
            order = np.argsort(ranked.image, kind="stable")  # the best detection of an image stays its first
            starts = np.searchsorted(ranked.image[order], np.arange(len(ranked.positives) + 1))
            for image in np.flatnonzero(ranked.positives):
                its = order[starts[image] : starts[image + 1]]
                one = Ranked(
                    np.zeros_like(its),
                    ranked.true_positive[:, its],
                    ranked.ignored[:, its],
                    ranked.positives[[image]],
                )
                total[image] += one.curves(once, slice(0, 1))[0].coco[0]
                occurs[image] += 1
        return np.where(occurs > 0, total / np.maximum(occurs, 1), np.nan)

    def resampled(self, counts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return mAP50 and mAP50-95 of many draws of the images.

        Args:
            counts: (I, R) how often each image was drawn in each of R draws.

        Returns:
            (2, R) in [0,1]; NaN where a draw holds nothing to find.
        """
        total = np.zeros((2, counts.shape[1]))
        occurs = np.zeros(counts.shape[1])
        for ranked in self.coco[0]:
            step = max(1, _AT_ONCE // max(1, int(ranked.positives.sum())))
            for start in range(0, counts.shape[1], step):
                part = slice(start, start + step)
                curves = ranked.curves(counts[:, part], slice(None))
                ap = np.array([curve.coco for curve in curves])
                there = curves[0].positives > 0
                total[:, part] += np.where(there, [ap[0], ap.mean(axis=0)], 0)
                occurs[part] += there
        return np.where(occurs > 0, total / np.maximum(occurs, 1), np.nan)


def mean_average_precision(
    truth: Sequence[Sample], found: Sequence[Detections], classes: int
) -> tuple[float, float]:
    """Return COCO's mAP at IoU 0.50 and over IoU 0.50 to 0.95, both in [0,1], matched by pycocotools.

    The mean is over the classes that occur in `truth`.

    Args:
        truth: the labelled images.
        found: what was found in each of them, labels numbering the same classes.
        classes: how many classes there are.

    Returns:
        (mAP50, mAP50-95); (nan, nan) where there is nothing to find.

    Raises:
        ValueError: if the two are not of the same length.
    """
    scores = Matches.of(truth, found, classes).summary([str(number) for number in range(classes)])
    return scores["mAP50"], scores["mAP50-95"]


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _coco(
    per_image: Sequence[tuple[NDArray[np.float64], NDArray[np.int64], Mapping[str, NDArray[np.generic]]]],
    classes: int,
) -> COCO:
    """Build one side of the comparison, without ``loadRes``, which raises for no detections."""
    # All ids start at 1: pycocotools never matches an annotation whose id is 0, and says nothing.
    marks: list[dict[str, object]] = []
    for image, (boxes, labels, more) in enumerate(per_image, 1):
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            marks.append(
                {
                    "id": len(marks) + 1,
                    "image_id": image,
                    "category_id": int(labels[i]) + 1,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    **{key: values[i].item() for key, values in more.items()},
                }
            )
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(1, len(per_image) + 1)],
        "annotations": marks,
        "categories": [{"id": number} for number in range(1, classes + 1)],
    }
    coco.createIndex()
    return coco


def _ranked(per_image: Sequence[Mapping[str, NDArray[np.float64]] | None]) -> Ranked:
    """Put pycocotools' matches of one class and size in one row, in pycocotools' own order."""
    matches = [(number, match) for number, match in enumerate(per_image) if match]
    positives = np.zeros(len(per_image), dtype=np.int64)
    for number, match in matches:
        positives[number] = np.count_nonzero(np.asarray(match["gtIgnore"]) == 0)
    if not matches:
        nothing = np.zeros((10, 0), dtype=bool)
        return Ranked(np.zeros(0, dtype=np.int64), nothing, nothing, positives)
    scores = np.concatenate([np.asarray(match["dtScores"], dtype=np.float64) for _, match in matches])
    order = np.argsort(-scores, kind="stable")
    image = np.repeat([number for number, _ in matches], [len(match["dtScores"]) for _, match in matches])
    matched = np.concatenate([match["dtMatches"] for _, match in matches], axis=1)[:, order] > 0
    ignored = np.concatenate([match["dtIgnore"] for _, match in matches], axis=1)[:, order].astype(bool)
    return Ranked(image[order], matched & ~ignored, ignored, positives)


def _as_voc(match: Mapping[str, NDArray[np.float64]], scored: COCOeval) -> dict[str, NDArray[np.float64]]:
    """Match one class of one image anew as VOC does, from the IoU that pycocotools measured."""
    key = int(match["image_id"]), int(match["category_id"])
    count = len(match["dtScores"])
    crowd = np.array([bool(mark["iscrowd"]) for mark in scored._gts[key]], dtype=bool)
    iou = np.asarray(scored.ious[key], dtype=np.float64).reshape(count, len(crowd))
    matched, ignored = np.zeros((1, count)), np.zeros((1, count))
    taken: set[int] = set()
    for i, row in enumerate(iou):
        box = int(np.where(crowd, -1, row).argmax()) if len(row) else -1
        if len(row) and not crowd[box] and row[box] >= 0.5:
            matched[0, i] = box not in taken
            taken.add(box)
        else:
            ignored[0, i] = bool((row[crowd] >= 0.5).any())
    return {
        "dtScores": match["dtScores"],
        "dtMatches": matched,
        "dtIgnore": ignored,
        "gtIgnore": crowd.astype(np.float64),
    }
