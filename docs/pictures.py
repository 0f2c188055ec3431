"""Make ``before_after.jpg`` and ``fidelity.jpg``: photographs of scikit-image (free to pass on), darkened, restored."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import skimage
import torch

from detection.enhancers import enhancer
from glare.data.degrade import degrade, generator_for

PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
EXPOSURE = 0.04
HEIGHT, WIDTH = 220, 300
FIDELITIES = (0.0, 0.5, 1.0, 1.5, 2.0)
#: What is shown of the photograph for the fidelities: left, top, right, bottom.
DETAIL = (150, 20, 350, 220)


def tile(image: np.ndarray) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(image)
    scale = max(HEIGHT / picture.height, WIDTH / picture.width)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), PIL.Image.Resampling.LANCZOS
    )
    left, top = (picture.width - WIDTH) // 2, (picture.height - HEIGHT) // 3
    return picture.crop((left, top, left + WIDTH, top + HEIGHT))


def darkened(name: str) -> tuple[np.ndarray, np.ndarray]:
    """A photograph at night and by day, (H,W,3) uint8."""
    clean = torch.from_numpy(getattr(skimage.data, name)()).movedim(-1, 0).float() / 255
    dark = degrade(clean, exposure=EXPOSURE, generator=generator_for("picture", name))
    night, day = ((255 * image).round().byte().movedim(0, -1).numpy() for image in (dark, clean))
    return night, day


def sheet(heads: Sequence[str], rows: Sequence[Sequence[PIL.Image.Image]]) -> PIL.Image.Image:
    """Tiles of one size under their heads."""
    width, height = rows[0][0].size
    picture = PIL.Image.new("RGB", (width * len(heads), 24 + height * len(rows)), "white")
    draw = PIL.ImageDraw.Draw(picture)
    font = PIL.ImageFont.load_default(15)
    for column, head in enumerate(heads):
        draw.text((column * width + 8, 3), head, fill="black", font=font)
        for row, tiles in enumerate(rows):
            picture.paste(tiles[column], (column * width, 24 + row * height))
    return picture


def main() -> None:
    gamma, glare = enhancer("gamma"), enhancer("glare")
    rows = []
    for name in PHOTOGRAPHS:
        dark, day = darkened(name)
        rows.append([tile(image) for image in (dark, gamma(dark), glare(dark), day)])
    heads = ("as the camera saw it", "gamma", "GLARE", "by day")
    sheet(heads, rows).save(Path(__file__).with_name("before_after.jpg"), quality=88)

    dark, _ = darkened("astronaut")
    strip = [PIL.Image.fromarray(enhancer(f"glare@{fidelity}")(dark)).crop(DETAIL) for fidelity in FIDELITIES]
    heads = tuple(f"fidelity {fidelity:g}" for fidelity in FIDELITIES)
    sheet(heads, [strip]).save(Path(__file__).with_name("fidelity.jpg"), quality=92)


if __name__ == "__main__":
    main()
