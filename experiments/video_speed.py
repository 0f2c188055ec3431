"""Measure what video takes: steadied or not, at half the size, the network alone or with decoding and encoding.

    python experiments/video_speed.py --val lol_v1/val

A window pans over a free photograph of scikit-image's, darkened by `glare.data.degrade`. All forms see the same frames
in turns, in one process, so that what else the machine does meets them alike. Processor time adds up all threads of the
process; it is less noisy than time by the clock, and takes no account of threads that work side by side.
Then a file as a whole, decoded, enhanced, encoded, is timed against the network alone on the same frames. With
``--val`` PSNR at half the size is compared with that at full size on the pairs of a folder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from skimage import data
from torch import Tensor
from tqdm import tqdm

from detection.report.tables import markdown
from glare import GLAREEnhance
from glare.data.degrade import LEVELS, degrade
from glare.data.pairs import list_pairs, read_pair
from glare.metrics import gt_mean, psnr
from glare.steady import Steady
from glare.video import EnhanceFrames, enhance_video

STEP = 8  # pixels that the window moves in a frame
FPS = 30


def clip(frames: int, height: int, width: int) -> Tensor:
    """Return a dark clip, (N,3,H,W) uint8."""
    photograph: NDArray[np.uint8] = data.rocket()  # type: ignore[no-untyped-call]
    image = torch.from_numpy(photograph).permute(2, 0, 1)[None] / 255
    size = (height, width + STEP * frames)
    wide = torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)[0]
    dark = degrade(wide, exposure=LEVELS["dark"], generator=torch.Generator().manual_seed(0))
    pixels = (255 * dark).round().to(torch.uint8)
    return torch.stack([pixels[..., STEP * number : STEP * number + width] for number in range(frames)])


def write(frames: Tensor, path: Path) -> None:
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=FPS)
        video.height, video.width = frames.shape[2:]
        for frame in frames:
            image = frame.permute(1, 2, 0).contiguous().numpy()
            file.mux(video.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(video.encode(None))


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """Return the processor time and the time by the clock of a call, in seconds."""
    start = time.process_time(), time.perf_counter()
    call()
    return time.process_time() - start[0], time.perf_counter() - start[1]


def measure(frames: Tensor) -> pd.DataFrame:
    """Return a row for each form: times of a frame, the least of all, and as a ratio to another form."""
    full, half = GLAREEnhance(device="cpu"), GLAREEnhance(device="cpu", scale=0.5)
    forms: dict[str, EnhanceFrames] = {
        "single frames": lambda frames, _: full(frames),
        "steadied": Steady(full),
        "half the size": lambda frames, _: half(frames),
        "half the size, steadied": Steady(half),
    }
    for call in forms.values():
        call(frames[:1], [0.0])
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for number in tqdm(range(1, len(frames)), unit="frame", leave=False):
        for name, call in list(forms.items())[:: 1 if number % 2 else -1]:
            frame, times = frames[number : number + 1], [number / FPS]
            rows[name].append(spent(lambda call=call, f=frame, t=times: call(f, t)))  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write(frames, source)
        all_of_it = spent(lambda: enhance_video(lambda pixels, _: pixels, source, target, "mp4", quiet=True))
        rows["decoding and encoding alone"] = [(all_of_it[0] / len(frames), all_of_it[1] / len(frames))]
    base = np.array(rows["single frames"])
    table = []
    for name, values in rows.items():
        found = np.array(values)
        ratio = (
            np.median(found[:, 0] / base[:, 0])
            if len(found) == len(base)
            else found[0, 0] / np.median(base[:, 0])
        )
        table.append(
            {
                "form": name,
                "processor s": np.median(found[:, 0]),
                "s by the clock": np.median(found[:, 1]),
                "frames a second": 1 / np.median(found[:, 1]),
                "of single frames": ratio,
            }
        )
    return pd.DataFrame(table)


def whole(frames: Tensor) -> pd.DataFrame:
    """Return a row for each steadied form: seconds a frame of a file as a whole, and of the network alone."""
    table = []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write(frames, source)
        for name, scale in (("steadied", 1.0), ("half the size, steadied", 0.5)):
            call = Steady(GLAREEnhance(device="cpu", scale=scale))
            call(frames[:1], [0.0])

            def alone(call: Steady = call) -> None:
                for number, frame in enumerate(torch.split(frames, 1)):
                    call(frame, [number / FPS])

            def file(call: Steady = call) -> None:
                enhance_video(call, source, target, "mp4", quiet=True)

            seconds = np.array([spent(alone)[1], spent(file)[1]]) / len(frames)
            table.append(
                {
                    "a file": name,
                    "network, s": seconds[0],
                    "whole, s": seconds[1],
                    "whole of network": seconds[1] / seconds[0],
                }
            )
    return pd.DataFrame(table)


def compare(folder: Path) -> pd.DataFrame:
    """Return PSNR at full and at half size, plain and with GT-mean, over all pairs, and the greatest loss."""
    forms = {scale: GLAREEnhance(device="cpu", scale=scale) for scale in (1.0, 0.5)}
    found: list[list[list[float]]] = []
    for files in tqdm(list_pairs(folder), unit="pair", leave=False):
        low, reference = read_pair(files, torch.device("cpu"))
        images = [enhance(low) for enhance in forms.values()]
        found.append(
            [[float(psnr(i, reference)), float(psnr(gt_mean(i, reference), reference))] for i in images]
        )
    values = np.array(found)  # (pairs, forms, definitions)
    rows = [
        {
            "PSNR": name,
            "full size": values[:, 0, place].mean(),
            "half the size": values[:, 1, place].mean(),
            "most that a pair loses": (values[:, 0, place] - values[:, 1, place]).max(),
            "pairs": len(values),
        }
        for place, name in enumerate(("plain", "GT-mean"))
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=6, help="(%(default)s)")
    parser.add_argument("--size", default="1280x720", help="width x height (%(default)s)")
    parser.add_argument("--val", type=Path, help="a folder with low/ and high/")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    frames = clip(args.frames, height, width)
    print(markdown(measure(frames).round(3)), "", sep="\n")
    print(markdown(whole(frames).round(3)), "", sep="\n")
    if args.val:
        print(markdown(compare(args.val).round(2)))


if __name__ == "__main__":
    main()
