"""Make ``docs/before_after.jpg``: photographs of scikit-image (free to pass on), darkened, and what becomes of them."""

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


def tile(image: np.ndarray) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(image)
    scale = max(HEIGHT / picture.height, WIDTH / picture.width)
    picture = picture.resize(
        (round(picture.width * scale), round(picture.height * scale)), PIL.Image.Resampling.LANCZOS
    )
    left, top = (picture.width - WIDTH) // 2, (picture.height - HEIGHT) // 3
    return picture.crop((left, top, left + WIDTH, top + HEIGHT))


def main() -> None:
    gamma, glare = enhancer("gamma"), enhancer("glare")
    heads = ("as the camera saw it", "gamma", "GLARE", "by day")
    sheet = PIL.Image.new("RGB", (WIDTH * len(heads), 24 + HEIGHT * len(PHOTOGRAPHS)), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    font = PIL.ImageFont.load_default(15)
    for column, head in enumerate(heads):
        draw.text((column * WIDTH + 8, 3), head, fill="black", font=font)
    for row, name in enumerate(PHOTOGRAPHS):
        clean = torch.from_numpy(getattr(skimage.data, name)()).movedim(-1, 0).float() / 255
        generator = generator_for("picture", name)
        dark = (255 * degrade(clean, exposure=EXPOSURE, generator=generator)).byte().movedim(0, -1).numpy()
        day = (255 * clean).byte().movedim(0, -1).numpy()
        for column, image in enumerate((dark, gamma(dark), glare(dark), day)):
            sheet.paste(tile(image), (column * WIDTH, 24 + row * HEIGHT))
    sheet.save(Path(__file__).with_name("before_after.jpg"), quality=88)


if __name__ == "__main__":
    main()
