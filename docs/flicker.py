"""Make ``flicker.svg``, and print how much a video flickers with and without steadying.

python docs/flicker.py docs/flicker.svg [--pairs lol_v1/val]
"""

import argparse
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import numpy as np
import skimage
import torch
from PIL import Image
from torch import Tensor

from glare import GLAREEnhance
from glare.steady import Steady

FPS, FRAMES, SIZE = 25, 40, (144, 192)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument(
        "--pairs", type=Path, help="a folder with low/ and high/, whose images are panned over"
    )
    args = parser.parse_args()
    enhance = GLAREEnhance(device="cpu")
    still = night(skimage.data.chelsea(), FRAMES)
    switched = with_lamp(still, [number >= 8 for number in range(FRAMES)])
    blinking = with_lamp(still, [number // 4 % 2 == 1 for number in range(FRAMES)])
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained", sharey=True)
    print(f"{'':24}{'flicker alone':>15}{'steadied':>10}{'share':>8}{'greatest step':>16}{'steadied':>10}")
    for name, frames, axis in (
        ("noise alone", still, None),
        ("a lamp is switched on", switched, axes[0]),
        ("a lamp blinks", blinking, axes[1]),
    ):
        alone, steady = (levels(result) for result in both(enhance, frames))
        row(name, alone, steady)
        if axis is not None:
            seconds = np.arange(len(frames)) / FPS
            axis.plot(seconds, alone, label="each frame alone", linewidth=1)
            axis.plot(seconds, steady, label="steadied", linewidth=2)
            axis.set(title=name, xlabel="s")
            axis.grid(alpha=0.3)
    axes[0].set_ylabel("level far from the lamp")
    axes[0].legend()
    figure.savefig(args.picture, metadata={"Date": None})
    if args.pairs:
        print_pans(enhance, args.pairs)


def night(photograph: np.ndarray, frames: int) -> Tensor:
    """A photograph at an eighth of its light, with the noise of a camera, other in each frame: (N,3,H,W) uint8.

    The quarter that `levels` looks at is the same in all: what changes there is tone alone.
    """
    generator = np.random.default_rng(0)
    dark = (photograph[40 : 40 + SIZE[0], 90 : 90 + SIZE[1]] / 255.0) ** 2.2 / 8
    electrons = generator.poisson(np.broadcast_to(dark * 1000, (frames, *dark.shape))) / 1000
    noisy = 255 * np.clip(electrons + generator.normal(0, 0.002, electrons.shape), 0, 1) ** (1 / 2.2)
    noisy[:, SIZE[0] // 2 :, SIZE[1] // 2 :] = noisy[:1, SIZE[0] // 2 :, SIZE[1] // 2 :]
    return torch.from_numpy(noisy.round().astype(np.uint8)).permute(0, 3, 1, 2)


def with_lamp(frames: Tensor, lit: list[bool]) -> Tensor:
    """The same with a lamp of 2 % of the picture in its upper left corner."""
    frames = frames.clone()
    frames[torch.tensor(lit), :, : SIZE[0] // 5, : SIZE[1] // 10] = 240
    return frames


def both(enhance: GLAREEnhance, frames: Tensor) -> tuple[Tensor, Tensor]:
    times = [number / FPS for number in range(len(frames))]
    return torch.cat([enhance(frame) for frame in frames.split(1)]), Steady(enhance)(frames, times)


def levels(frames: Tensor) -> np.ndarray:
    """The mean level of the quarter that is farthest from the lamp, of each frame."""
    return frames[..., SIZE[0] // 2 :, SIZE[1] // 2 :].float().mean((1, 2, 3)).numpy()


def row(name: str, alone: np.ndarray, steady: np.ndarray) -> None:
    old, new = np.abs(np.diff(alone)), np.abs(np.diff(steady))
    print(
        f"{name:24}{old.mean():15.3f}{new.mean():10.3f}{new.mean() / old.mean():8.2f}{old.max():16.2f}{new.max():10.2f}"
    )


def print_pans(enhance: GLAREEnhance, pairs: Path) -> None:
    """Pans over photographs: the warped error, what remains of it for tone alone, and PSNR to the reference."""
    found = []
    for low in sorted((pairs / "low").iterdir())[:4]:
        dark, bright = (pan(path) for path in (low, pairs / "high" / low.name))
        results = both(enhance, dark)
        found.append(
            [figure for result in results for figure in (*warped(result, bright), psnr(result, bright))]
        )
    mean = np.mean(found, 0)
    print(f"{len(found)} pans: warped error {mean[0]:.3f}, steadied {mean[3]:.3f}; ", end="")
    print(f"its tone {mean[1]:.3f}, steadied {mean[4]:.3f}; PSNR {mean[2]:.2f}, steadied {mean[5]:.2f} dB")


def pan(path: Path) -> Tensor:
    with Image.open(path) as file:
        image = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
    height, width = SIZE
    return torch.stack([image[:, 20 : 20 + height, left : left + width] for left in range(0, 80, 8)])


def warped(frames: Tensor, guide: Tensor) -> tuple[float, float]:
    """Mean absolute difference of each frame and the last one, warped by the flow of ``guide``; and of their means."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2GRAY) for frame in guide]
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    errors, tones = [], []
    for number in range(1, len(frames)):
        back = flow.calc(grey[number], grey[number - 1], None)
        last, now = (frames[i].permute(1, 2, 0).numpy().astype(np.float32) for i in (number - 1, number))
        seen = cv2.remap(last, columns + back[..., 0], rows + back[..., 1], cv2.INTER_LINEAR)
        difference = (now - seen)[16:-16, 16:-16]
        errors.append(np.abs(difference).mean())
        tones.append(np.abs(difference.mean((0, 1))).mean())
    return float(np.mean(errors)), float(np.mean(tones))


def psnr(frames: Tensor, references: Tensor) -> float:
    squares = (frames.float() - references.float()).square().mean((1, 2, 3)) / 255**2
    return float((-10 * squares.log10()).mean())


if __name__ == "__main__":
    main()
