"""GLARE: low-light image enhancement in front of detectors, as a differentiable torchvision transform.

>>> import torch
>>> from glare import GLAREEnhance
>>> night = torch.full((3, 24, 32), 10, dtype=torch.uint8)  # or a PIL image, or an array
>>> day = GLAREEnhance()(night)
>>> day.shape, day.dtype, bool(day.float().mean() > night.float().mean())
(torch.Size([3, 24, 32]), torch.uint8, True)
"""

from importlib.metadata import PackageNotFoundError, version

from glare.config import GLAREConfig
from glare.model import GLARE
from glare.transform import GLAREEnhance

__all__ = ["GLARE", "GLAREConfig", "GLAREEnhance", "__version__"]

try:
    __version__ = version("glare-torch")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "unknown"
