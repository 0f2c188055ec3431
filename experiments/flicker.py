"""Measure how much a video flickers whose frames are enhanced alone, and one that is steadied, on clips made here.

    python experiments/flicker.py --chart docs/flicker.svg

A window pans over a free photograph of scikit-image's, darkened by `glare.data.degrade`, and a lamp of 2 % of the
picture blinks three times a second in its corner. In the clip ``tone`` the grain lies on the scene, so that tone alone
changes at a place; in ``grain`` it is drawn anew in each frame, as by a sensor.

The level is the mean of the half without the lamp, in levels of 255, less what it changes in good light. The warped
error is the mean distance between a frame and the one before it, carried along the optical flow (OpenCV's DIS, between
the frames in good light), over the same half. Of it, grain that is drawn anew is a part, which no tone removes: that
is what frames have whose statistics stay those of the first one (``of one tone``). PSNR is of that half against good
light, plain and brightness aside (GT-mean), since one dark frame does not tell the brightness of the scene.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
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
from glare.files import whole_file
from glare.metrics import gt_mean, psnr
from glare.steady import Steady

FPS = 25
STEP = 3  # pixels that the window moves in a frame
BLINK = 4  # frames that the lamp is on, then off
SIZE = (160, 240)

Pixels = NDArray[np.float32]


def clip(frames: int, *, anew: bool) -> tuple[Tensor, Tensor]:
    """Return a dark clip, and the same in good light and without lamp; both (N, 3, H, W) uint8."""
    height, width = SIZE
    generator = torch.Generator().manual_seed(0)
    photograph: NDArray[np.uint8] = data.rocket()  # type: ignore[no-untyped-call]
    scene = torch.from_numpy(photograph).permute(2, 0, 1)[:, -height:]

    def darken(image: Tensor) -> Tensor:
        dark = degrade(image / 255, exposure=LEVELS["dark"], generator=generator)
        return (255 * dark).round().to(torch.uint8)

    def window(image: Tensor, number: int) -> Tensor:
        return image[..., STEP * number : STEP * number + width]

    night = darken(scene)
    light = torch.stack([window(scene, number) for number in range(frames)])
    dark = torch.stack([darken(f) for f in light] if anew else [window(night, n) for n in range(frames)])
    lit = torch.arange(frames) // BLINK % 2 == 1
    dark[lit, :, : height // 5, : width // 10] = 230
    return dark, light


def half(frames: Tensor) -> Tensor:
    """Return the half of frames (N, 3, H, W) that has no lamp."""
    return frames[..., frames.shape[3] // 2 :]


def level(frames: Tensor) -> Pixels:
    """Return the mean of each frame's half without the lamp, (N,) in levels of 255."""
    return half(frames).float().mean((1, 2, 3)).numpy()


def warped_error(frames: Tensor, light: Tensor) -> float:
    """Return the mean distance of frames (N, 3, H, W) to those before them, carried along the flow of ``light``."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    images, references = (f.permute(0, 2, 3, 1).contiguous().numpy() for f in (frames, light))
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in references]
    rows, columns = np.indices(grey[0].shape, dtype=np.float32)
    errors = []
    for number in range(1, len(images)):
        motion = flow.calc(grey[number], grey[number - 1], None)  # type: ignore[call-overload]  # where each was
        x, y = columns + motion[..., 0], rows + motion[..., 1]
        before = cv2.remap(images[number - 1].astype(np.float32), x, y, cv2.INTER_LINEAR)
        seen = (x >= 0) & (x <= x.shape[1] - 1) & (y >= 0) & (y <= y.shape[0] - 1)
        seen[:, : seen.shape[1] // 2] = False
        errors.append(np.abs(before - images[number])[seen].mean())
    return float(np.mean(errors))


def measure(enhance: GLAREEnhance, frames: int) -> tuple[pd.DataFrame, dict[str, dict[str, Pixels]]]:
    """Return a table with a row for each clip and form, and the levels by clip and form."""
    rows, levels = [], {}
    for name, anew in (("tone", False), ("grain", True)):
        dark, light = clip(frames, anew=anew)
        steady, fixed = Steady(enhance), Steady(enhance, seconds=1e9)
        forms: dict[str, Callable[[int], Tensor]] = {
            "single frames": lambda n, dark=dark: enhance(dark[n : n + 1]),  # type: ignore[misc]
            "steadied": lambda n, dark=dark, steady=steady: steady(dark[n : n + 1], [n / FPS]),  # type: ignore[misc]
            "of one tone": lambda n, dark=dark, fixed=fixed: fixed(dark[n : n + 1], [n / FPS]),  # type: ignore[misc]
        }
        made: dict[str, list[Tensor]] = {form: [] for form in forms}
        spent = dict.fromkeys(forms, 0.0)
        for number in tqdm(range(frames), desc=name, unit="frame"):
            for form, call in forms.items():  # in turns, so that both see the same machine
                start = time.perf_counter()
                made[form].append(call(number))
                spent[form] += time.perf_counter() - start
        levels[name] = {form: level(torch.cat(images)) for form, images in made.items()}
        day = np.diff(level(light))
        for form, images in made.items():
            all_of = torch.cat(images)
            unit, reference = (half(f).float() / 255 for f in (all_of, light))
            rows.append(
                {
                    "clip": name,
                    "frames": form,
                    "change of level": np.abs(np.diff(levels[name][form]) - day).mean(),
                    "warped error": warped_error(all_of, light),
                    "PSNR": float(psnr(unit, reference).mean()),
                    "PSNR GT-mean": float(psnr(gt_mean(unit, reference), reference).mean()),
                    "times the time": spent[form] / spent["single frames"],
                }
            )
    return pd.DataFrame(rows), levels


def chart(levels: dict[str, dict[str, Pixels]], path: Path) -> None:
    """Draw the levels of both clips over time."""
    figure, axes = plt.subplots(1, len(levels), figsize=(9, 2.6), sharey=True, layout="constrained")
    for axis, (name, forms) in zip(axes, levels.items(), strict=True):
        for form in ("single frames", "steadied"):
            values = forms[form]
            axis.plot(np.arange(len(values)) / FPS, values, label=form)
        axis.set(title=name, xlabel="seconds")
    axes[0].set_ylabel("level of the unlit half")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    with whole_file(path) as beside:
        figure.savefig(beside, format="svg", metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", default="glare-tiny", help="(%(default)s)")
    parser.add_argument("--frames", type=int, default=40, help="of each clip (%(default)s)")
    parser.add_argument("--chart", type=Path, help="an SVG to draw")
    args = parser.parse_args()
    table, levels = measure(GLAREEnhance(args.weights, device="cpu"), args.frames)
    print(markdown(table.round(2)))
    if args.chart:
        chart(levels, args.chart)


if __name__ == "__main__":
    main()
