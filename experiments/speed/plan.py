"""The models, and the sizes of the images, in each part of a run."""

from __future__ import annotations

from typing import Any

BASE, TINY = "base", "glare-tiny"
VARIANT_SIZES = {BASE: [(256, 256), (420, 620)], TINY: [(256, 256), (640, 640)]}
RATIO_SIZE = (640, 640)  # at which the two models are compared
GAIN_SIZES = {BASE: (256, 256), TINY: (640, 640)}
PROFILE_SIZES = {BASE: (420, 620), TINY: (640, 640)}
SCALING_SIZES = [(500, 500), (1000, 1000), (2000, 2000), (3000, 4000)]
WARM_SIZE = (64, 64)
CROP = 128  # of photographs, for the latents of `base`
FOLDER = (24, (400, 600))  # images of the batch tool, and their size

Size = tuple[int, int]
"""Height and width in pixels."""
Rows = list[dict[str, Any]]
"""Rows of a table."""
