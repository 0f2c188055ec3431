import platform

import pytest
import torch

from detection.report.provenance import command, portable, versions, without_folders


def test_versions() -> None:
    found = versions()
    assert found["python"] == platform.python_version()
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert "pycocotools" in found


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("raw,glare@0.5", "raw,glare@0.5"),
        ("runs/a/best", "runs/a/best"),  # as it was typed: it tells of no machine
        ("/data/sets/night", "night"),
        ("/data/sets/night/", "night/"),
        ("/data/my sets/night", "night"),
        ("glare=/runs/a/best@0.5,onnx:/nets/b.onnx,raw", "glare=best@0.5,onnx:b.onnx,raw"),
        (r"C:\sets\night", "night"),
    ],
)
def test_absolute_paths_are_cut(typed: str, told: str) -> None:
    assert portable(typed) == told


def test_command() -> None:
    words = ["--data", "/data/my sets/a b", "--out", "runs/x"]
    assert command("experiments/a.py", words) == "python experiments/a.py --data 'a b' --out runs/x"


def test_sentences() -> None:
    text = "a/b.png: cannot identify image file '/data/set/a/b.png', 3/4 of it"
    assert without_folders(text) == "a/b.png: cannot identify image file 'b.png', 3/4 of it"
