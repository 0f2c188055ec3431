"""What stands in front of the detector, by name: the classics to beat, GLARE, and any callable of yours."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

import numpy as np

from detection.dataset import Pixels

Enhancer = Callable[[Pixels], Pixels]
"""(H, W, 3) uint8 RGB -> the same shape and kind."""

GAMMA = 0.45


def raw(image: Pixels) -> Pixels:
    """Return the image untouched: the row every other one has to beat."""
    return image


def gamma(image: Pixels) -> Pixels:
    """Raise the sRGB values in [0,1] to the power of 0.45."""
    curve = (255 * (np.arange(256) / 255) ** GAMMA).round().astype(np.uint8)
    brighter: Pixels = curve[image]
    return brighter


def clahe(image: Pixels) -> Pixels:
    """Contrast-limited adaptive histogram equalisation of L in CIELAB, 8×8 tiles, clip limit 2.

    Source: Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.
    """
    import cv2

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cast(Pixels, cv2.cvtColor(lab, cv2.COLOR_LAB2RGB))


def histogram(image: Pixels) -> Pixels:
    """Equalise the histogram of the luma Y of the whole image, colour differences kept (BT.601)."""
    import cv2

    ycrcb = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    ycrcb[..., 0] = cv2.equalizeHist(ycrcb[..., 0])
    return cast(Pixels, cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2RGB))


_BY_NAME: dict[str, Enhancer] = {"raw": raw, "gamma": gamma, "clahe": clahe, "histogram": histogram}
NAMES = (*_BY_NAME, "glare")
"""The built-in enhancers."""


def enhancer(name: str, device: str = "cpu") -> Enhancer:
    """Return an enhancer by name.

    Args:
        name: one of `NAMES`; ``glare@0.5`` for GLARE at a fidelity of 0.5; or ``module:callable`` for a
            function of yours that takes and returns (H, W, 3) uint8 RGB.
        device: where GLARE computes.

    Raises:
        ValueError: if there is no enhancer of that name, the module has no such callable, or the fidelity is
            no number.
        ModuleNotFoundError: if the module is not there.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name == "glare" or name.startswith("glare@"):
        return _glare(name, device)
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(
            f"Expected argument `name` to be one of {', '.join(NAMES)}, glare@FIDELITY or module:callable "
            f"but got {name!r}."
        )
    found = getattr(import_module(module), attribute, None)
    if not callable(found):
        raise ValueError(f"Expected module {module!r} to have a callable {attribute!r} but got {found!r}.")
    yours: Enhancer = found
    return yours


def _glare(name: str, device: str) -> Enhancer:
    _, _, fidelity = name.partition("@")
    try:
        strength = float(fidelity or 1)
    except ValueError as error:
        raise ValueError(f"Expected a number behind `glare@` but got {fidelity!r}.") from error
    from glare import GLAREEnhance

    enhance: Enhancer = GLAREEnhance(fidelity=strength, device=device)
    return enhance


def check_enhanced(name: str, image: Pixels, enhanced: object) -> None:
    """Raise ValueError unless `enhanced` is of the shape and kind of `image`: (H, W, 3) uint8."""
    if not isinstance(enhanced, np.ndarray) or enhanced.shape != image.shape or enhanced.dtype != np.uint8:
        got = type(enhanced).__name__
        if isinstance(enhanced, np.ndarray):
            got = f"{enhanced.dtype} {enhanced.shape}"
        raise ValueError(f"Expected enhancer `{name}` to return uint8 {image.shape} but got {got}.")
