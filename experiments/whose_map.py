"""Tell whose mAP it is: the same boxes scored by the packages that papers take, as a table in Markdown.

    python -m venv whose_map
    whose_map/bin/pip install -r experiments/whose_map.txt
    PYTHONPATH=. whose_map/bin/python experiments/whose_map.py coco/annotations.json found.json --detector yolo26n.pt

In an environment of its own, since GLARE depends on few of these packages. ``found.json`` is a list of detections in
the format of COCO's results; where it is not there, the detector makes it. What is not installed is left out and named
under the table. docs/metrics.md holds the table and says how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from tqdm import tqdm

from detection import Detections, detector, read_coco
from detection.data.classes import class_map
from detection.metrics.average_precision import Matches
from glare.files import whole_file

OURS = "GLARE"
Figures = tuple[float, float]
"""mAP50 and mAP50-95, in [0,1]."""


@dataclass(frozen=True)
class Boxes:
    """The truth and the detections, as files and as arrays by image.

    Attributes:
        annotations: COCO JSON of the truth.
        results: COCO results of the detections.
        images: folder of the images; None looks for them beside the JSON.
        truth: of each image, boxes (N, 4) as corners in pixels, labels (N,), and whether each is a crowd (N,).
        found: of each image, boxes (N, 4), scores (N,) and labels (N,), in the order of the file.
        classes: how many classes there are.
    """

    annotations: Path
    results: Path
    images: Path | None
    truth: list[dict[str, NDArray[Any]]]
    found: list[dict[str, NDArray[Any]]]
    classes: int


def read(annotations: Path, results: Path, images: Path | None = None) -> Boxes:
    """Read the truth and the detections.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if the detections are of images that the truth does not have.
    """
    with redirect_stdout(sys.stderr):
        coco = COCO(str(annotations))
    numbers = {category: number for number, category in enumerate(sorted(coco.getCatIds()))}
    ids = sorted(coco.getImgIds())
    rows = json.loads(results.read_text(encoding="utf-8"))
    if strangers := {row["image_id"] for row in rows} - set(ids):
        raise ValueError(f"Expected detections in images of {annotations} but got image {min(strangers)}.")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_image[row["image_id"]].append(row)

    def arrays(marks: list[dict[str, Any]]) -> dict[str, NDArray[Any]]:
        boxes = np.array([mark["bbox"] for mark in marks], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([numbers[mark["category_id"]] for mark in marks], np.int64)
        return {"boxes": boxes, "labels": labels}

    truth = []
    for image in ids:
        marks = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
        truth.append({**arrays(marks), "crowd": np.array([mark.get("iscrowd", 0) for mark in marks], bool)})
    found = []
    for image in ids:
        marks = by_image[image]
        found.append({**arrays(marks), "scores": np.array([mark["score"] for mark in marks], np.float64)})
    return Boxes(annotations, results, images, truth, found, len(numbers))


def ours(boxes: Boxes) -> Figures:
    names = [category["name"] for category in _categories(boxes.annotations)]
    data = read_coco(boxes.annotations, images=boxes.images, classes=names)
    order = sorted(json.loads(boxes.annotations.read_text(encoding="utf-8"))["images"], key=lambda i: i["id"])
    place = {image["file_name"]: number for number, image in enumerate(order)}
    found = [boxes.found[place[sample.name]] for sample in data.samples]
    matches = Matches.of(
        data.samples, [Detections(f["boxes"], f["scores"], f["labels"]) for f in found], boxes.classes
    )
    summary = matches.summary(data.classes)
    return summary["mAP50"], summary["mAP50-95"]


def like_pycocotools(module: str, evaluation: str, *, submodules: bool = False) -> Callable[[Boxes], Figures]:
    """Return the evaluation by a package whose functions are called as those of pycocotools."""

    def evaluate(boxes: Boxes) -> Figures:
        of_data, of_scores = (
            import_module(f"{module}.{part}" if submodules else module) for part in ("coco", "cocoeval")
        )
        truth = of_data.COCO(str(boxes.annotations))
        scored = getattr(of_scores, evaluation)(truth, truth.loadRes(str(boxes.results)), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        return float(scored.stats[1]), float(scored.stats[0])

    return evaluate


def supervision(boxes: Boxes) -> Figures:
    package, metrics = import_module("supervision"), import_module("supervision.metrics")
    metric = metrics.MeanAveragePrecision()
    for truth, found in zip(boxes.truth, boxes.found, strict=True):
        data = {"iscrowd": truth["crowd"].astype(int), "area": _areas(truth["boxes"])}
        metric.update(
            package.Detections(xyxy=found["boxes"], class_id=found["labels"], confidence=found["scores"]),
            package.Detections(xyxy=truth["boxes"], class_id=truth["labels"], data=data),
        )
    result = metric.compute()
    return float(result.map50), float(result.map50_95)


def globox(boxes: Boxes) -> Figures:
    sets = import_module("globox").AnnotationSet
    truth = sets.from_coco(boxes.annotations)
    scored = import_module("globox").COCOEvaluator(
        ground_truths=truth, predictions=truth.from_results(boxes.results)
    )
    return float(scored.ap_50()), float(scored.ap())


def torchmetrics(backend: str) -> Callable[[Boxes], Figures]:
    def evaluate(boxes: Boxes) -> Figures:
        metric = import_module("torchmetrics.detection").MeanAveragePrecision(backend=backend)
        tensors = [{name: torch.from_numpy(value) for name, value in f.items()} for f in boxes.found]
        truth = [
            {
                "boxes": torch.from_numpy(t["boxes"]),
                "labels": torch.from_numpy(t["labels"]),
                "iscrowd": torch.from_numpy(t["crowd"]).long(),
            }
            for t in boxes.truth
        ]
        metric.update(tensors, truth)
        result = metric.compute()
        return float(result["map_50"]), float(result["map"])

    return evaluate


def ultralytics(in_order: bool) -> Callable[[Boxes], Figures]:
    """Return the evaluation of ultralytics' validator: its matching and its average precision, without crowds."""

    def evaluate(boxes: Boxes) -> Figures:
        metrics = import_module("ultralytics.utils.metrics")
        validator = import_module("ultralytics.models.yolo.detect").DetectionValidator()
        hits = []
        for truth, found in zip(boxes.truth, boxes.found, strict=True):
            order = np.argsort(-found["scores"], kind="stable") if in_order else np.argsort(found["scores"])
            hits.append(
                {
                    "tp": validator._process_batch(
                        {"bboxes": _float(found["boxes"][order]), "cls": _float(found["labels"][order])},
                        {
                            "bboxes": _float(truth["boxes"][~truth["crowd"]]),
                            "cls": _float(truth["labels"][~truth["crowd"]]),
                        },
                    )["tp"],
                    "conf": found["scores"][order],
                    "pred_cls": found["labels"][order],
                    "target_cls": truth["labels"][~truth["crowd"]],
                }
            )
        joined = {name: np.concatenate([hit[name] for hit in hits]) for name in hits[0]}
        precisions = metrics.ap_per_class(**joined)[5]
        return float(precisions[:, 0].mean()), float(precisions.mean())

    return evaluate


COCO_TOOLS = "101 recalls, 100 detections an image, crowds ignored"
ROWS: list[tuple[str, str, str, Callable[[Boxes], Figures]]] = [
    (OURS, "Matches.of(...).summary", COCO_TOOLS, ours),
    ("pycocotools", "COCOeval", COCO_TOOLS, like_pycocotools("pycocotools", "COCOeval", submodules=True)),
    (
        "faster-coco-eval",
        "COCOeval_faster",
        COCO_TOOLS,
        like_pycocotools("faster_coco_eval", "COCOeval_faster"),
    ),
    ("hotcoco", "COCOeval", COCO_TOOLS, like_pycocotools("hotcoco", "COCOeval")),
    ("supervision", "MeanAveragePrecision", COCO_TOOLS, supervision),
    ("globox", "COCOEvaluator", "101 recalls, 100 detections an image, crowds are boxes to be found", globox),
    (
        "torchmetrics",
        "MeanAveragePrecision, backend='pycocotools'",
        "as pycocotools, recalls and thresholds in float32",
        torchmetrics("pycocotools"),
    ),
    (
        "torchmetrics",
        "MeanAveragePrecision, backend='faster_coco_eval'",
        "as above",
        torchmetrics("faster_coco_eval"),
    ),
    (
        "ultralytics",
        "DetectionValidator, ap_per_class",
        "precision interpolated between recalls, all detections, crowds are no boxes",
        ultralytics(in_order=True),
    ),
    (
        "ultralytics",
        "the same, detections from the lowest score up",
        "each box is taken by the first that fits",
        ultralytics(in_order=False),
    ),
]


def table(boxes: Boxes) -> str:
    """Return the table in Markdown, and below what was left out and why."""
    lines = ["| mAP50 | mAP50-95 | package | called as | what it computes |", "|---|---|---|---|---|"]
    left_out = []
    for package, call, definition, evaluate in ROWS:
        try:
            told = OURS if package == OURS else f"{package} {version(package)}"
            with redirect_stdout(sys.stderr):  # these packages chat
                figures = evaluate(boxes)
        except (PackageNotFoundError, ModuleNotFoundError):
            left_out.append(f"{package} ({call}): not installed")
        except Exception as error:  # whatever a package does, the others are asked
            left_out.append(f"{package} ({call}): {type(error).__name__}: {error}")
        else:
            shown = " | ".join(f"{100 * figure:.3f}" for figure in figures)
            lines.append(f"| {shown} | {told} | `{call}` | {definition} |")
    return "\n".join([*lines, "", *(f"Left out: {line}" for line in left_out)])


def detect(annotations: Path, images: Path | None, checkpoint: str, out: Path) -> None:
    """Write what a detector finds in the images of a COCO JSON, as COCO has results."""
    categories = _categories(annotations)
    names = [category["name"] for category in categories]
    data = read_coco(annotations, images=images, classes=names)
    ids = {i["file_name"]: i["id"] for i in json.loads(annotations.read_text(encoding="utf-8"))["images"]}
    find = detector(checkpoint)
    numbers = class_map(find.names, names)
    rows = []
    for sample in tqdm(data.samples, desc="detect", unit="image"):
        (found,) = find([sample.load()])
        found = found.relabel(numbers)
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            category = categories[label]["id"]
            rows.append({"image_id": ids[sample.name], "category_id": category, "bbox": box, "score": score})
    with whole_file(out) as beside:
        beside.write_text(json.dumps(rows), encoding="utf-8")


def _categories(annotations: Path) -> list[dict[str, Any]]:
    found = json.loads(annotations.read_text(encoding="utf-8"))["categories"]
    return sorted(found, key=lambda category: category["id"])


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]


def _float(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("annotations", type=Path, help="COCO JSON of the truth")
    parser.add_argument("results", type=Path, help="COCO results of the detections")
    parser.add_argument("--detector", help="makes the results where they are not there; a checkpoint")
    parser.add_argument("--images", type=Path, help="folder with the images, for the detector")
    args = parser.parse_args()
    try:
        if args.detector and not args.results.exists():
            detect(args.annotations, args.images, args.detector, args.results)
        print(table(read(args.annotations, args.results, args.images)))
    except (OSError, ValueError) as error:
        sys.exit(f"whose_map.py: {error}")


if __name__ == "__main__":
    main()
