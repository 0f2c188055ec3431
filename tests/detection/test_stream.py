import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pytest

from detection import Dataset, Sample, evaluate
from detection.cache import Cache, write_png
from detection.data.core import Pixels
from detection.enhancers import raw
from detection.timing import timed
from tests.detection.squares import Bright, Counted, square, squares


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries than glibc give back by themselves"
)
def test_memory_is_given_back_after_every_image() -> None:
    """In a process of its own, whose memory has no holes from before."""
    code = "from tests.detection import test_stream as t; print(t.given_back())"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(found.stdout.split()[-1]) > 100


def given_back() -> int:
    """MiB of memory by which a process shrinks after an image that left holes."""
    pins: list[Pixels] = []
    resident: list[int] = []

    def leaves_holes(image: Pixels) -> Pixels:
        if len(image) == 100 and not pins:
            holes = []
            for _ in range(200):
                holes.append(np.ones(2**20, np.uint8))
                pins.append(np.ones(2**16, np.uint8))
        return image

    def note(*_: object) -> None:
        status = Path("/proc/self/status").read_text()
        resident.append(int(status.split("VmRSS:")[1].split()[0]) // 1024)

    np.ones(2**25 - 2**16, np.uint8)  # freed, it has glibc keep blocks of up to its size
    evaluate(squares(count=2), {"leaves_holes": leaves_holes}, Bright(), on_image=note)
    return resident[0] - resident[1]


class Watched:
    """An enhancer that takes 20 ms, and whether what is noted went on meanwhile."""

    def __init__(self) -> None:
        self.timed = False
        self.disturbed: list[bool] = []

    def __call__(self, image: Pixels) -> Pixels:
        self.timed = True
        sleep(0.02)
        self.timed = False
        return image

    def note(self) -> None:
        self.disturbed.append(self.timed)


class TestWhileTimed:
    def test_nothing_is_loaded_or_written_while_a_call_is_timed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watched = Watched()

        def load(sample: Sample) -> Pixels:
            watched.note()
            return sample.load()

        def write(*given: Any) -> None:
            watched.note()
            write_png(*given)

        monkeypatch.setattr("detection.stream.write_png", write)
        data = squares(count=4)
        samples = [replace(sample, load=partial(load, sample)) for sample in data.samples]
        enhancers = {"raw": raw, "a": Counted(watched, "a"), "b": Counted(watched, "b")}
        evaluate(replace(data, samples=tuple(samples)), enhancers, Bright(), cache=Cache(tmp_path))
        assert watched.disturbed == [False] * (4 + 2 * 4)

    def test_nor_after_a_measure_that_failed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Images too small for SSIM; and the writing of a file takes longer than the enhancing of the next."""
        watched = Watched()

        def write(*_: Any) -> None:
            for _ in range(5):
                watched.note()
                sleep(0.01)

        monkeypatch.setattr("detection.stream.write_png", write)
        small = [
            replace(
                sample, load=lambda i=i: square(i)[18:26, 18:26], reference=lambda: square(9)[18:26, 18:26]
            )
            for i, sample in enumerate(squares(count=4).samples)
        ]
        enhancers = {"slow": Counted(watched, "slow")}
        with pytest.raises(ValueError, match="SSIM: "):
            evaluate(replace(squares(), samples=tuple(small)), enhancers, Bright(), cache=Cache(tmp_path))
        assert watched.disturbed == [False] * 4 * 5


class TestGrowth:
    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
    def test_memory_does_not_grow_with_the_images(self) -> None:
        noise = np.random.default_rng(0)
        peaks: list[float] = []

        def load() -> Pixels:
            return noise.integers(0, 256, (600, 800, 3), dtype=np.uint8)

        template = squares().samples[0]
        many = [replace(template, name=str(i), load=load, reference=None) for i in range(40)]
        evaluate(
            Dataset(tuple(many)),
            {"raw": raw, "negative": lambda image: 255 - image},
            Bright(),
            on_image=lambda *_: peaks.append(timed(lambda: None)[1].mb),
            resamples=0,
        )
        assert max(peaks[20:]) < max(peaks[:20]) + 10  # twenty more images are 60 MB with their enhanced ones
