"""Detectors behind enhancers: labelled sets, darkening, COCO mAP, tables and pictures.

>>> import detection
>>> night = detection.darken(detection.sample_set(), "dark")
>>> table = detection.evaluate(night, detection.detector(), {"raw": detection.enhancer("raw")})
"""

try:
    from detection.boxes import COCO_CLASSES, EXDARK_CLASSES, Detections
    from detection.cache import Cache
    from detection.coco import read_coco, write_coco
    from detection.darkened import write_darkened
    from detection.dataset import Dataset, Sample, darken
    from detection.detectors import Detector, TorchvisionDetector, detector
    from detection.enhancers import Enhancer, enhancer
    from detection.evaluate import evaluate
    from detection.exdark import ExDark
    from detection.folders import read_dark_face, read_yolo, write_yolo
    from detection.readers import read_dataset
    from detection.restoration import restore
    from detection.sample import sample_set
    from detection.testsets import read_test_sets
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
    "restore",
    "sample_set",
    "write_coco",
    "write_darkened",
    "write_yolo",
]
