"""The network and a detector in one ONNX file."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glare.cli import main
from glare.joined import _LETTERBOX, _UNBOX, _part, join_detector, read_detector

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

#: Stands for the network, which test_export.py runs: the pixels' roots.
NETWORK = """
<ir_version: 10, opset_import: ["": 20]>
network (float[B, 3, H, W] low) => (float[B, 3, H, W] image) { image = Sqrt (low) }
"""
#: Stands for a detector of 96×96 pixels: three fixed boxes, of which one reaches beyond the picture, and as scores the
#: mean of what it sees.
DETECTOR = """
<ir_version: 8, opset_import: ["": 17]>
detector (float[1, 3, 96, 96] images) => (float[1, 3, 6] output0)
<float[1, 3, 4] corners = {30, 31, 60, 63, -9, -9, 150, 150, 48, 48, 49, 49}, float[1, 3, 1] classes = {0, 7, 2}>
{
    mean = ReduceMean <keepdims = 0> (images)
    one = Constant <value_ints = [1, 3, 1]> ()
    scores = Expand (mean, one)
    output0 = Concat <axis = 2> (corners, scores, classes)
}
"""


def write(text: str, path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def run(file: Path | Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    content = str(file) if isinstance(file, Path) else file.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write(NETWORK, tmp_path / "network.onnx"), write(DETECTOR, tmp_path / "detector.onnx")


# Wide, tall, square, larger and smaller than the detector's square, and rows that cannot be shared out evenly.
SIZES = [(64, 117), (131, 80), (96, 96), (200, 301), (33, 47), (95, 96)]


@pytest.mark.parametrize("size", SIZES)
def test_letterbox_is_that_of_ultralytics(size: tuple[int, int]) -> None:
    augment = pytest.importorskip("ultralytics.data.augment")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = augment.LetterBox((96, 96), auto=False)(image=image)
    planes = (image.transpose(2, 0, 1)[None] / np.float32(255)).astype(np.float32)
    boxed, *_ = run(_part(_LETTERBOX, 10, 96), {"enhanced": planes})
    difference = np.abs(255 * boxed[0].transpose(1, 2, 0) - expected)
    assert difference.max() <= 1.01  # OpenCV rounds uint8 to whole levels, twice
    assert difference.mean() < 0.3


@pytest.mark.parametrize("size", SIZES)
def test_boxes_come_back_as_by_ultralytics(size: tuple[int, int]) -> None:
    ops = pytest.importorskip("ultralytics.utils.ops")
    rows = np.random.default_rng(1).uniform(-5, 100, (1, 7, 6)).astype(np.float32)
    _, ratio, before, whole = run(
        _part(_LETTERBOX, 10, 96), {"enhanced": np.zeros((1, 3, *size), np.float32)}
    )
    (boxes,) = run(_part(_UNBOX, 10, 96), {"rows": rows, "ratio": ratio, "before": before, "size": whole})
    np.testing.assert_allclose(
        boxes[0, :, :4], ops.scale_boxes((96, 96), rows[0, :, :4].copy(), size), atol=1e-4
    )
    np.testing.assert_array_equal(boxes[..., 4:], rows[..., 4:])


def test_image_in_boxes_out(files: tuple[Path, Path], tmp_path: Path) -> None:
    joined = join_detector(*files, tmp_path / "sub" / "joined.onnx")
    low = np.random.default_rng(2).uniform(0, 0.2, (1, 3, 64, 48)).astype(np.float32)
    image, boxes = run(joined, {"low": low})
    np.testing.assert_array_equal(image, run(files[0], {"low": low})[0])
    boxed, ratio, before, _ = run(_part(_LETTERBOX, 10, 96), {"enhanced": image})
    assert (*ratio, *before) == (1.5, 1.5, 0, 12)
    # 30 of 96 lies (30 - 12) / 1.5 from the left of the image and 31 of 96 at 31 / 1.5 from its top.
    np.testing.assert_allclose(boxes[0, 0, :4], [12, 31 / 1.5, 32, 42], atol=1e-5)
    np.testing.assert_allclose(boxes[0, 1, :4], [0, 0, 48, 64])
    np.testing.assert_allclose(boxes[0, :, 4], boxed.mean(), rtol=1e-5)
    assert boxes[0, :, 5].tolist() == [0, 7, 2]
    assert [path.name for path in joined.parent.iterdir()] == ["joined.onnx"]


def test_what_the_detector_says_of_itself_stays(files: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(files[1])
    onnx.helper.set_model_props(model, {"names": "{0: 'cat'}"})
    onnx.save(model, files[1])
    joined = onnx.load(join_detector(*files, tmp_path / "joined.onnx"))
    assert {entry.key: entry.value for entry in joined.metadata_props} == {"names": "{0: 'cat'}"}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("[1, 3, 6]", "[1, 84, 525]"), r"rows \(1, N, 6\).*output0 \[1, 84, 525\].*nms=True"),
        (("[1, 3, 96, 96] images", "[1, 3, 96, 64] images"), r"\(1, 3, S, S\).*images \[1, 3, 96, 64\]"),
        (("[1, 3, 96, 96] images", "[1, 3, S, S] images"), r"\(1, 3, S, S\).*images \[1, 3, 0, 0\]"),
    ],
)
def test_another_layout_is_told(change: tuple[str, str], why: str, tmp_path: Path) -> None:
    text = DETECTOR.replace(*change)
    file = tmp_path / "detector.onnx"
    file.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    with pytest.raises(ValueError, match=why):
        read_detector(file)


def test_half_precision_is_told(tmp_path: Path) -> None:
    text = DETECTOR.replace("float[", "float16[")
    with pytest.raises(ValueError, match=r"float32 but its images is float16"):
        read_detector(write(text, tmp_path / "detector.onnx"))


def test_no_onnx_file_is_told_before_the_network_is_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "yolo.onnx").write_text("weights?")
    for name, why in (("yolo.onnx", "Expected a detector's ONNX file"), ("none.onnx", "No such file")):
        words = ["export", "--onnx", str(tmp_path / "out.onnx"), "--detector", str(tmp_path / name)]
        assert main(words) == 1
        told = capsys.readouterr().err
        assert why in told
        assert "Tracing" not in told
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture(scope="module")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in detector as ultralytics exports it, by its end-to-end head."""
    pytest.importorskip("ultralytics")
    from detection.detectors.ultralytics import built_in

    folder = tmp_path_factory.mktemp("yolo")
    model = built_in()._model
    model.model.pt_path = model.ckpt_path = str(folder / "yolo.pt")  # the file that its export is named after
    with contextlib.redirect_stdout(io.StringIO()):
        return Path(model.export(format="onnx", imgsz=96, nms=False, verbose=False))


def test_a_real_detector_finds_what_it_finds_apart(
    yolo: Path, files: tuple[Path, Path], tmp_path: Path
) -> None:
    data = pytest.importorskip("skimage.data")
    joined = join_detector(files[0], yolo, tmp_path / "joined.onnx")
    photo = (data.chelsea()[::3, ::3] / np.float32(255)).astype(np.float32)
    low = (photo.transpose(2, 0, 1)[None] / 8).astype(np.float32)
    image, boxes = run(joined, {"low": low})
    boxed, ratio, before, size = run(_part(_LETTERBOX, 10, 96), {"enhanced": image})
    (rows,) = run(yolo, {"images": boxed})
    (expected,) = run(_part(_UNBOX, 10, 96), {"rows": rows, "ratio": ratio, "before": before, "size": size})
    found = rows[0, :, 4] > 0.01
    assert found.any()
    np.testing.assert_allclose(boxes[0, found], expected[0, found], rtol=0, atol=1e-3)
