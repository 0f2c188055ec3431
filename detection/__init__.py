"""Detectors behind enhancers: labelled sets, darkening, COCO mAP, image quality, tables and pictures.

>>> from detection import darken, detector, enhancer, evaluate, sample_set
>>> night = darken(sample_set(), "dark")
>>> table = evaluate(night, {"raw": enhancer("raw"), "gamma": enhancer("gamma")}, detector())
>>> table[["light", "enhancer", "mAP50"]].round(1)
  light enhancer  mAP50
0  dark      raw    0.8
1  dark    gamma    0.7
"""

try:
    from detection.cache import Cache
    from detection.data.auto import read_dataset
    from detection.data.builtin import sample_set
    from detection.data.classes import COCO_CLASSES, EXDARK_CLASSES
    from detection.data.coco import read_coco, write_coco
    from detection.data.core import Dataset, Detections, Sample
    from detection.data.dark_face import read_dark_face
    from detection.data.darken import darken, write_darkened
    from detection.data.exdark import ExDark
    from detection.data.paired import read_test_sets
    from detection.data.yolo import read_yolo, write_yolo
    from detection.detectors import detector
    from detection.detectors.base import Detector
    from detection.detectors.torchvision import TorchvisionDetector
    from detection.enhancers import Enhancer, enhancer
    from detection.metrics.image_quality import Metric
    from detection.runner import evaluate
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("pandas", "pycocotools", "scipy", "skimage"):
        raise
    raise ModuleNotFoundError(
        f"The detection side needs {error.name}: pip install 'glare-torch[detection]'.", name=error.name
    ) from error

__all__ = [
    "COCO_CLASSES",
    "EXDARK_CLASSES",
    "Cache",
    "Dataset",
    "Detections",
    "Detector",
    "Enhancer",
    "ExDark",
    "Metric",
    "Sample",
    "TorchvisionDetector",
    "darken",
    "detector",
    "enhancer",
    "evaluate",
    "read_coco",
    "read_dark_face",
    "read_dataset",
    "read_test_sets",
    "read_yolo",
    "sample_set",
    "write_coco",
    "write_darkened",
    "write_yolo",
]
