"""GLARE as an albumentations transform."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from glare import transform

# Albumentations asks the network for a newer release of itself when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
try:
    from albumentations import ImageOnlyTransform
except ImportError as error:
    raise ImportError(
        'glare.albumentations needs albumentations: pip install "glare-torch[albumentations]"'
    ) from error


class GLAREEnhance(ImageOnlyTransform):
    """Enhance the image of a sample with GLARE; masks, boxes and keypoints pass.

    The image is an (H,W,3) RGB array, uint8 or float32 in [0,1], and comes back as such. Weights are read at
    the first image, and ``A.to_dict`` holds only their name.

    Args:
        weights: the name of weights that come with the package, a folder, a ``.safetensors`` file or a
            Hugging Face Hub id.
        fidelity: in [0, 2]. 1 is the trained model, 0 leans wholly on the codebook prior, above 1 on the
            input's detail.
        p: probability of enhancing a sample, in [0, 1].

    Raises:
        TypeError, ValueError, FileNotFoundError: as `glare.GLAREEnhance` does.

    >>> import albumentations as A
    >>> pipeline = A.Compose([GLAREEnhance(), A.HorizontalFlip(p=1)])
    >>> pipeline(image=np.full((24, 32, 3), 10, dtype=np.uint8))["image"].shape
    (24, 32, 3)
    """

    def __init__(self, weights: str | Path = "glare-tiny", fidelity: float = 1.0, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.weights = str(weights)
        self.fidelity = fidelity
        self._enhance = transform.GLAREEnhance(weights, fidelity=fidelity)

    def apply(self, img: np.ndarray[Any, Any], *args: Any, **params: Any) -> np.ndarray[Any, Any]:
        """Enhance an image, (H,W,3) uint8 or float32 in [0,1]; the result is of the same kind."""
        enhanced: np.ndarray[Any, Any] = self._enhance(img)
        return enhanced
