import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from detection import timing as module
from detection.timing import cores, free_threads, threads, timed


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_threads_are_put_back_whoever_changed_them() -> None:
    torch.set_num_threads(3)
    with threads(2):
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError), threads(2):
        raise RuntimeError
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(
    ("asked", "at_import", "now", "expected"),
    [
        (False, 8, 8, 8),  # nothing has happened yet
        (False, 8, 7, 8),  # ultralytics has predicted
        (False, 1, 1, None),  # ultralytics was imported before torch
        (False, 1, 7, None),
        (True, 4, 4, 4),  # OMP_NUM_THREADS=4
        (True, 1, 7, 1),
        (False, 8, 3, 3),  # torch.set_num_threads(3)
    ],
)
def test_what_somebody_asked_for_holds(
    asked: bool, at_import: int, now: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ASKED", asked)
    monkeypatch.setattr(module, "_AT_IMPORT", at_import)
    torch.set_num_threads(now)
    assert free_threads(taken=7) == (expected or cores())


@pytest.mark.parametrize("first", ["import torch, ultralytics", "import ultralytics, torch"])
def test_in_front_of_a_real_yolo(first: str) -> None:
    """In a process of its own: the enhancer has all cores at each image, and ultralytics what it has set."""
    code = f"""
import os
os.environ.pop("OMP_NUM_THREADS", None)
os.environ["YOLO_OFFLINE"] = "true"
{first}
import numpy as np
from detection.timing import cores
from detection.detectors.ultralytics import WEIGHTS, YOLO, built_in
from detection.hooks import put_in_front
from ultralytics.utils import NUM_THREADS

seen = []
def enhance(image):
    seen.append(torch.get_num_threads())
    return image

yolo = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
yolo.model = built_in().network
put_in_front(yolo, enhance)
for _ in range(2):
    yolo.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    assert torch.get_num_threads() == NUM_THREADS, torch.get_num_threads()
assert seen == [cores()] * 2, seen
before = torch.get_num_threads() + 1
torch.set_num_threads(before)
built_in()([np.zeros((64, 64, 3), np.uint8)])
assert torch.get_num_threads() == before  # the harness's own detector leaves everything as it is
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


class TestMemory:
    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
    def test_memory_is_the_highest_of_the_call(self) -> None:
        _, before = timed(lambda: None)
        kept, most = timed(lambda: np.ones(100_000_000, np.uint8)[:9].copy())
        _, after = timed(lambda: None)
        assert len(kept) == 9
        assert 90 < most.mb - before.mb < 130
        assert after.mb - before.mb < 30
