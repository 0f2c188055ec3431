from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glare import GLARE, GLAREEnhance
from glare import albumentations as glare_albumentations  # first, for it keeps albumentations off the network
from glare import weights as glare_weights

import albumentations as A  # isort: skip


@pytest.fixture
def folder(model: GLARE, tmp_path: Path) -> Path:
    return glare_weights.save(model, tmp_path).parent


@pytest.fixture
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 60, (10, 14, 3), dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_equals_the_torchvision_transform(folder: Path, image: np.ndarray[Any, Any], dtype: str) -> None:
    given = image if dtype == "uint8" else (image / 255.0).astype(dtype)
    result = glare_albumentations.GLAREEnhance(folder)(image=given)["image"]
    assert result.dtype == given.dtype
    np.testing.assert_array_equal(result, GLAREEnhance(folder)(given))
    assert not np.array_equal(result, given)


def test_boxes_and_masks_pass_in_a_compose(folder: Path, image: np.ndarray[Any, Any]) -> None:
    pipeline = A.Compose(
        [glare_albumentations.GLAREEnhance(folder), A.HorizontalFlip(p=1.0)],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]),
    )
    mask = np.eye(10, 14, dtype=np.uint8)
    result = pipeline(image=image, mask=mask, bboxes=[[1, 2, 5, 8]], labels=[4])
    np.testing.assert_array_equal(result["image"], GLAREEnhance(folder)(image)[:, ::-1])
    np.testing.assert_array_equal(result["mask"], mask[:, ::-1])
    np.testing.assert_allclose(result["bboxes"], [[9, 2, 13, 8]])
    assert list(result["labels"]) == [4]


def test_survives_json(folder: Path, image: np.ndarray[Any, Any]) -> None:
    pipeline = A.Compose([glare_albumentations.GLAREEnhance(folder, fidelity=0.25, p=1.0)])
    text = json.dumps(A.to_dict(pipeline))
    again = A.from_dict(json.loads(text))
    assert A.to_dict(again) == A.to_dict(pipeline)
    assert again[0].fidelity == 0.25
    np.testing.assert_array_equal(again(image=image)["image"], pipeline(image=image)["image"])


def test_p_is_the_probability(folder: Path, image: np.ndarray[Any, Any]) -> None:
    result = glare_albumentations.GLAREEnhance(folder, p=0.0)(image=image)
    np.testing.assert_array_equal(result["image"], image)


def test_a_missing_albumentations_names_the_extra() -> None:
    code = "import sys; sys.modules['albumentations'] = None; import glare.albumentations"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert 'pip install "glare-torch[albumentations]"' in result.stderr
