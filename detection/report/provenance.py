"""Origin of a result: the command and the versions, without the places of somebody's machine."""

from __future__ import annotations

import platform
import re
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    *("glare-torch", "torch", "torchvision", "numpy", "pillow", "opencv-python", "pycocotools"),
    *("ultralytics", "onnxruntime", "lpips", "scikit-image"),
)


def versions() -> dict[str, str]:
    """Return the versions of Python, of the system and of the installed packages that a result may depend on."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}"}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command(script: str, arguments: Sequence[str]) -> str:
    """Return the command that was typed, absolute paths cut to their last part: ``--data /sets/a`` -> ``--data a``.

    Args:
        script: its path from the root of the repository, or ``-m`` and a module.
        arguments: the words behind it.
    """
    return shlex.join(["python", *script.split(), *map(portable, arguments)])


def portable(word: str) -> str:
    """Return an argument, the absolute paths in it cut to their last part: ``onnx:/nets/a.onnx`` -> ``onnx:a.onnx``."""
    return re.sub(r"(^|[,=:])([A-Za-z]:)?[/\\][^,=:@]*[/\\](?=[^,=:@/\\])", r"\1", word)


def without_folders(text: str) -> str:
    """Return a sentence with the absolute paths in it cut to their last part."""
    return re.sub(r"(?<![\w.:/\\])([A-Za-z]:)?[/\\]([^\s/\\'\"]+[/\\])+", "", text)
