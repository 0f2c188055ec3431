from pathlib import Path

import pytest
from PIL import Image

import detection.detectors.ultralytics  # noqa: F401 - keeps ultralytics, where a test imports it, off the network


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    for folder in ("images/val", "labels/val"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("a.png", "empty.png"):
        Image.new("RGB", (200, 100)).save(tmp_path / "images/val" / name)
    (tmp_path / "labels/val/a.txt").write_text("0 0.5 0.5 0.5 0.2\n45 0.1 0.1 0.1 0.1\n", encoding="utf-8")
    (tmp_path / "labels/val/empty.txt").write_text("", encoding="utf-8")
    return tmp_path
