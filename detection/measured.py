"""What becomes of one image: enhanced, or taken from the cache, timed, and compared with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detection.cache import Cache, Cost, write_png
from detection.dataset import Dataset, Pixels, Sample
from detection.enhancers import Enhancer, Folder, check_enhanced, enhanced_by, one_line, raw
from glare import metrics
from glare.tiles import give_back_memory

T = TypeVar("T")
Call = Callable[[], None]
Loading = Callable[[], tuple[Pixels, Pixels | None]]
_TRIED = 3
"""On how many images of a set an enhancer is tried before it is given up."""
_GROWTH = 64.0
"""By how many 10^6 bytes a run may grow before it gives memory back, which takes as long as a cheap enhancer."""
_BAND = 64
"""Rows of an image of which SSIM is computed at once."""


class Enhancing:
    """Enhance image after image, each once where there is a cache.

    Args:
        cache: where to keep, and look for, what enhancers made, if they have an ``identity``.
    """

    def __init__(self, cache: Cache | None) -> None:
        self.cache = cache
        self._warm: set[int] = set()
        self._unwritten: dict[Path, tuple[Pixels, Cost]] = {}

    def __call__(
        self, name: str, enhance: Enhancer | Folder, image: Pixels, sample: Sample
    ) -> tuple[Pixels, Cost, Path | None]:
        """Return what an enhancer makes of a sample's image, what that took, and its file if there is one.

        Raises:
            ValueError, OSError: see `enhanced_by`; and whatever the enhancer raises.
        """
        if isinstance(enhance, Folder):
            already = enhanced_by(name, enhance, image, sample)
            return already, Cost(float("nan"), float("nan")), enhance.find(sample.name, sample.light)
        if enhance is raw:
            return image.copy(), Cost(0.0, float("nan")), None

        def make() -> tuple[Pixels, Cost]:
            copy = image.copy()  # an enhancer that writes into its input must not reach the next one
            return measured(lambda: enhanced_by(name, enhance, copy, sample))

        identity: str | None = getattr(enhance, "identity", None)
        if self.cache is None or identity is None:
            return *make(), None
        return self.cache.enhanced(image, identity, make, self._unwritten)

    @contextmanager
    def keeping(self, go_on: Callable[[Call], Call]) -> Iterator[Call]:
        """Write the files of what is made of an image here, once nothing more of it is timed; `go_on` is of `ahead`.

        What was made of an image with a fault is kept too.

        Yields:
            What is to be called when nothing more is timed.

        Raises:
            FaultError: at the end, if a file cannot be written.
        """
        written: list[Call] = []

        def timed() -> None:
            written.append(go_on(self._write))

        try:
            yield timed
        finally:
            if not written:
                timed()
            with blame("cache"):
                written[0]()

    def _write(self) -> None:
        """Two threads may share the work."""
        while True:
            try:
                path, (pixels, cost) = self._unwritten.popitem()
            except KeyError:
                return
            write_png(path, pixels, cost)

    def warm_up(self, what: object, call: Callable[[], object]) -> None:
        """Kernels are chosen at the first call, which is no part of the timing, nor of the result."""
        if id(what) not in self._warm:
            self._warm.add(id(what))
            with suppress(Exception):
                call()


def working(
    enhancers: Mapping[str, Enhancer | Folder], dataset: Dataset, progress: bool = False
) -> tuple[dict[str, Enhancer | Folder], list[str]]:
    """Return the enhancers that work, and a line on each that does not: it must not cost the others their rows.

    Each is called on 64×64 pixels, which also loads its weights and chooses its kernels, no part of the timing; where
    it fails on those, as a network for one size does, on the first images of the set. Folders are taken as they are.

    Args:
        enhancers: by name.
        dataset: the set.
        progress: print the lines too.
    """
    kept = dict(enhancers)
    faults: list[str] = []
    for name, enhance in enhancers.items():
        if not isinstance(enhance, Folder) and (fault := _failure(name, enhance, dataset)):
            del kept[name]
            faults.append(fault)
            if progress:
                print(f"Fault: {fault}", flush=True)
    return kept, faults


def _failure(name: str, enhance: Enhancer, dataset: Dataset) -> str:
    """What an enhancer fails with; empty if there is something it does not fail on."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first = ""
    for load in (lambda: noise, *(sample.load for sample in dataset.samples[:_TRIED])):
        try:
            with blame(f"enhancer `{name}` is left out, as it failed on all that it was tried on"):
                image = load()
                check_enhanced(name, image, enhance(image.copy()))
            return ""
        except FaultError as error:
            first = first or str(error)
    return first


def psnr(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels of two RGB images; see `ssim`."""
    if image.dtype == reference.dtype == np.uint8:
        import cv2

        squares = cv2.norm(image, reference, cv2.NORM_L2SQR)  # exact, and without the way to floats
        return float(10 * np.log10(255**2 * image.size / squares)) if squares else float("inf")
    return float(metrics.psnr(as_tensor(image), as_tensor(reference)))


def ssim(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the structural similarity of two RGB images, the mean over the channels.

    The same as `glare.metrics.ssim`, to 1e-6 on photographs and 1e-4 on any images, in a fraction of its time on a CPU:
    behind a cheap enhancer that was most of a run.

    Args:
        image: (H, W, 3) uint8, or float in [0,1].
        reference: likewise.

    Raises:
        ValueError: if the images measure less than 11 pixels.
    """
    if min(image.shape[:2]) < metrics.WINDOW:
        raise ValueError(f"Expected images of at least 11×11 but got {image.shape[0]}×{image.shape[1]}.")
    height, width, channels = image.shape
    beyond = metrics.WINDOW - 1
    (x, mean_x), (y, mean_y) = (_centred(pixels) for pixels in (image, reference))
    total = 0.0
    # In bands: what is computed on the way stays in the processor's cache.
    for top in range(0, height - beyond, _BAND):
        rows = slice(top, top + _BAND + beyond)
        total += float(_ssim_map(x[rows], y[rows], mean_x, mean_y).sum(dtype=np.float64))
    return total / float((height - beyond) * (width - beyond) * channels)


def _centred(pixels: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """An image in [0,255] less its mean, and that mean."""
    values = pixels.astype(np.float32)
    if pixels.dtype != np.uint8:
        values *= 255
    mean = float(values.mean(dtype=np.float64))
    values -= mean
    return values, mean


def _ssim_map(x: NDArray[Any], y: NDArray[Any], mean_x: float, mean_y: float) -> NDArray[Any]:
    """SSIM at every position where the window fits, of images less their means.

    Variances are differences of nearly equal numbers: without the means float32 has enough digits for them.
    """
    import cv2

    edge = metrics.WINDOW // 2

    def mean(values: NDArray[Any]) -> NDArray[Any]:
        blurred: NDArray[Any] = cv2.GaussianBlur(values, (metrics.WINDOW,) * 2, metrics.SIGMA)
        return blurred[edge:-edge, edge:-edge]

    near_x, near_y = mean(x), mean(y)
    covariance = mean(x * y) - near_x * near_y
    variances = mean(x * x + y * y) - (near_x * near_x + near_y * near_y)  # of both together
    near_x, near_y = near_x + mean_x, near_y + mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values: NDArray[Any] = (2 * near_x * near_y + c1) * (2 * covariance + c2)
    values /= (near_x * near_x + near_y * near_y + c1) * (variances + c2)
    return values


def lpips(image: NDArray[Any], reference: NDArray[Any], network: nn.Module) -> float:
    """Return `glare.metrics.LPIPS` of two RGB images; see `ssim`.

    Raises:
        ValueError: if the images measure less than 31 pixels.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        return float(network(*(as_tensor(i).float().to(device) for i in (image, reference))))


def unit(image: NDArray[Any]) -> NDArray[np.float64]:
    """(H, W, 3) uint8, or float in [0,1] -> float64 in [0,1]."""
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def as_tensor(image: NDArray[Any]) -> Tensor:
    """(H, W, 3) uint8, or float in [0,1] -> (1, 3, H, W) float64 in [0,1]."""
    return torch.from_numpy(unit(image)).permute(2, 0, 1)[None]


def measured(call: Callable[[], T]) -> tuple[T, Cost]:
    """Call, and measure the time and the highest memory meanwhile.

    Where CUDA is in use the memory is the most that torch's tensors took on a device, weights included, without
    what CUDA itself and torch's reserve take. Otherwise, on Linux, it is the highest resident memory of the whole
    process: Python, the libraries, all weights and what torch kept from earlier calls; what a method takes shows in the
    difference from the row of a cheap one. Elsewhere it is NaN.
    """
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count() if in_use else 0)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    resets = not devices and _reset_peak_rss()
    start = perf_counter()
    result = call()
    ms = 1000 * (perf_counter() - start)
    if devices:
        return result, Cost(ms, max(torch.cuda.max_memory_allocated(device) for device in devices) / 1e6)
    return result, Cost(ms, _rss("VmHWM") if resets else float("nan"))


def _reset_peak_rss() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _rss(which: Literal["VmRSS", "VmHWM"]) -> float:
    """Resident memory of this process now, or the highest so far, in 10^6 bytes; NaN where nobody tells."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{which}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return float("nan")


def ahead(dataset: Dataset, numbers: Sequence[int]) -> Iterator[tuple[Loading, Callable[[Call], Call]]]:
    """Load image after image and its reference: the next one while the measures are taken of the one before.

    Not while an enhancer or a detector is timed, from which it would take a core. Of a photograph of 640×480 loading
    and darkening take as long as one call of the built-in detector (75 ms), and so does writing what four enhancers
    made of it: waiting for both every time would slow down a run of cheap enhancers; PSNR, SSIM and the picture of
    what was found take as long.

    Yields:
        What returns the image, or raises; and what is to be called when nothing more of this one is timed, with what
        there is to write: it loads the next image and writes that, beside whatever follows, and returns what helps
        with the writing and waits for it, or raises.
    """

    def load(number: int) -> tuple[Pixels, Pixels | None]:
        sample = dataset.samples[number]
        return sample.load(), sample.reference() if sample.reference else None

    coming: dict[int, Future[tuple[Pixels, Pixels | None]]] = {}
    with ThreadPoolExecutor(1) as thread:

        def start(place: int) -> None:
            if place < len(numbers) and place not in coming:
                coming[place] = thread.submit(load, numbers[place])

        def go_on(place: int, write: Call) -> Call:
            start(place)
            writing = thread.submit(write)

            def written() -> None:
                try:
                    write()
                finally:
                    if not writing.cancel():  # it waits for the loading where there is nothing left to write
                        writing.result()

            return written

        resident = 0.0
        for place in range(len(numbers)):
            start(place)
            yield coming.pop(place).result, partial(go_on, place + 1)
            if not _rss("VmRSS") <= resident + _GROWTH:
                give_back_memory()
                resident = _rss("VmRSS")


class FaultError(Exception):
    """What went wrong with an image, to be listed."""


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Whatever goes wrong with one image is listed and does not end the run, whoever's code it was in."""
    try:
        yield
    except FaultError as fault:
        raise FaultError(f"{what}: {fault}") from fault
    except Exception as error:
        raise FaultError(f"{what}: {one_line(error)}") from error
