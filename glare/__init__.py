"""GLARE: low-light image enhancement in front of detectors, as a differentiable torchvision transform."""

from importlib.metadata import PackageNotFoundError, version

from glare.config import GLAREConfig
from glare.model import GLARE
from glare.transform import GLAREEnhance

__all__ = ["GLARE", "GLAREConfig", "GLAREEnhance", "__version__"]

try:
    __version__ = version("glare-torch")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "unknown"
