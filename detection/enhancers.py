"""Enhancers by name: the classics to beat, GLARE, and any network or callable of yours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import torch

from detection.cache import fingerprint
from detection.data.core import Dataset, Pixels, Sample, load_image
from detection.faults import FaultError, blame, one_line
from glare.reading import find_files

Enhancer = Callable[[Pixels], Pixels]
"""(H, W, 3) uint8 RGB -> the same shape and kind."""

GAMMA = 0.45
_TRIED = 3
"""On how many images of a set an enhancer is tried before it is given up."""


def raw(image: Pixels) -> Pixels:
    """Return the image untouched: the row every other one has to beat."""
    return image


def gamma(image: Pixels) -> Pixels:
    """Raise the sRGB values in [0,1] to the power of 0.45."""
    curve = (255 * (np.arange(256) / 255) ** GAMMA).round().astype(np.uint8)
    brighter: Pixels = curve[image]
    return brighter


def clahe(image: Pixels) -> Pixels:
    """Equalise the histogram of L in CIELAB adaptively, with limited contrast: 8×8 tiles, clip limit 2.

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


@dataclass(frozen=True)
class Named:
    """An enhancer with an identity, which names all that its result depends on besides the image.

    Attributes:
        enhance: the enhancer.
        identity: changes with whatever changes the result; what a `detection.cache.Cache` knows it by.
    """

    enhance: Enhancer
    identity: str

    def __call__(self, image: Pixels) -> Pixels:
        """Enhance (H, W, 3) uint8 RGB."""
        return self.enhance(image)


def enhancer(name: str, device: str = "cpu") -> Enhancer | Folder:
    """Return an enhancer by name.

    Args:
        name: one of

            - `NAMES`;
            - ``glare@0.5`` for GLARE at a fidelity of 0.5, ``glare=WEIGHTS`` and ``glare=WEIGHTS@0.5`` with
              other weights than the packaged ones: whatever `GLAREEnhance` takes;
            - ``onnx:FILE``, a network for ONNX Runtime, (1, 3, H, W) float RGB in [0,1] -> the same;
            - ``folder:PATH``, images that were enhanced already, see `Folder`;
            - ``module:callable``, a function of yours that takes and returns (H, W, 3) uint8 RGB.
        device: where GLARE and ONNX Runtime compute.

    Returns:
        The enhancer, with an attribute ``identity`` for `detection.cache.Cache` unless it is ``raw`` or a folder,
        where there is nothing to keep.

    Raises:
        ValueError: if there is no enhancer of that name, the module has no such callable, the fidelity is no
            number, the weights are none of GLARE, or the file is no ONNX network of one image to one image.
        FileNotFoundError: if the weights, the file or the folder are not there.
        ModuleNotFoundError: if the module, or ONNX Runtime, is not there.

    >>> dark = np.full((8, 8, 3), 10, np.uint8)
    >>> enhancer("gamma")(dark)[0, 0]
    array([59, 59, 59], dtype=uint8)
    """
    if name == "raw":
        return raw
    if name in _BY_NAME:
        return Named(_BY_NAME[name], f"{name} {fingerprint(Path(__file__))}")
    if glare := re.fullmatch(r"glare(=(?P<weights>.+?))?(@(?P<fidelity>[^@]*))?", name):
        return _glare(glare["weights"] or "glare-tiny", glare["fidelity"], device)
    kind, colon, rest = name.partition(":")
    if not colon or not kind or not rest:
        raise ValueError(
            f"Expected an enhancer out of {', '.join(NAMES)}, glare=WEIGHTS@FIDELITY, onnx:FILE, "
            f"folder:PATH or module:callable but got {name!r}."
        )
    if kind == "onnx":
        return _onnx(Path(rest), device)
    if kind == "folder":
        return Folder(Path(rest))
    return Named(yours(name), f"{name} {source(kind)}")


def yours(name: str) -> Callable[..., Any]:
    """Return the callable that ``module:callable`` names.

    Raises:
        ValueError: if the module has no such callable.
        ModuleNotFoundError: if the module is not there.
    """
    module, _, attribute = name.partition(":")
    found = getattr(import_module(module), attribute, None)
    if not callable(found):
        raise ValueError(f"Expected module {module!r} to have a callable {attribute!r} but got {found!r}.")
    return found  # type: ignore[no-any-return]


def source(module: str) -> str:
    """Return the fingerprint of a module's file, or of all files of a package, without those that it imports."""
    file = import_module(module).__file__
    if file is None:
        raise ValueError(f"Expected module {module!r} to have a file but it has none.")
    files = sorted(Path(file).parent.rglob("*.py")) if Path(file).name == "__init__.py" else [Path(file)]
    return fingerprint(*files)


def _glare(weights: str, fidelity: str | None, device: str) -> Enhancer:
    try:
        strength = 1.0 if fidelity is None else float(fidelity)
    except ValueError as error:
        raise ValueError(f"Expected a number behind `glare@` but got {fidelity!r}.") from error
    from glare import GLAREEnhance
    from glare.weights import find

    enhance = GLAREEnhance(weights, fidelity=strength, device=device)
    try:
        enhance.model  # noqa: B018 - reads the weights: what is wrong with them is told here and not at the first image
    except Exception as error:  # errors of safetensors and of torch have no other common class
        raise ValueError(
            f"Expected weights of GLARE at {weights} but got stuck: {one_line(error)}"
        ) from error
    return Named(
        enhance,
        f"glare, fidelity {strength}, weights {fingerprint(find(weights))}, program {source('glare')}, "
        f"torch {torch.__version__} on {torch.device(device).type}",
    )


def _onnx(file: Path, device: str) -> Enhancer:
    if not file.is_file():
        raise FileNotFoundError(f"Expected an ONNX file at {file} but there is none.")
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"The enhancer onnx:{file} needs ONNX Runtime: pip install onnxruntime.", name=error.name
        ) from error
    kind = torch.device(device).type
    wanted = ["CUDAExecutionProvider"] if kind == "cuda" else []
    try:
        session = onnxruntime.InferenceSession(str(file), providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:  # errors of ONNX Runtime have no other common class
        raise ValueError(
            f"Expected an ONNX network at {file} that ONNX Runtime {onnxruntime.__version__} can run but got stuck: "
            f"{error}"
        ) from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type != "tensor(float)":
        raise ValueError(
            f"Expected {file} to take one float image but it takes "
            f"{', '.join(f'{i.name}: {i.type}' for i in inputs)}."
        )

    def enhance(image: Pixels) -> Pixels:
        batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32) / 255
        (result, *_) = session.run(None, {inputs[0].name: batch})
        if result.shape != batch.shape:
            raise ValueError(f"Expected {file.name} to return {batch.shape} but got {result.shape}.")
        if not np.isfinite(result).all():
            raise ValueError(f"Expected {file.name} to return finite numbers but got NaN or infinity.")
        pixels: Pixels = (255 * result[0].clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0)
        return np.ascontiguousarray(pixels)

    providers = ", ".join(session.get_providers())
    return Named(enhance, f"onnx {fingerprint(file)}, {providers} {onnxruntime.__version__}")


class Folder:
    """Images that were enhanced already: a folder with one for each image of the set, under the same name.

    The suffix may be another. Names match together with the folders they lie in, or else on their own, without
    regard to case. For a set at several lights `path` may hold a folder of the name of each; so it may for the parts
    of a test set, under their whole names or the ends of them.

    Args:
        path: the folder; no image in it is opened yet.

    Raises:
        FileNotFoundError: if there is no image in it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._files: dict[str, list[Path]] = {}
        for file in find_files(self.path):
            *folders, name = file.relative_to(self.path).with_suffix("").parts
            for start in range(len(folders) + 1):
                self._files.setdefault(_key(*folders[start:], name), []).append(file)
        if not self._files:
            raise FileNotFoundError(f"Expected enhanced images in {path} but there are none.")

    def find(self, name: str, light: str) -> Path:
        """Return the file of an image.

        Args:
            name: of the sample.
            light: of the sample; matters where `path` has a folder of that name.

        Raises:
            FileNotFoundError: if there is none, or more than one to choose from.
        """
        folders = PurePosixPath(light).parts
        ends = (self.path.joinpath(*folders[start:]) for start in range(len(folders)))
        root = next((end for end in ends if end.is_dir()), self.path)
        parts = PurePosixPath(name).with_suffix("").parts
        found = self._files.get(_key(*parts)) or self._files.get(_key(*parts[-1:])) or []
        found = [file for file in found if file.is_relative_to(root)]
        found = [file for file in found if file.name.lower() == PurePosixPath(name).name.lower()] or found
        if len(found) != 1:
            listed = ", ".join(str(file.relative_to(self.path)) for file in found) or "none"
            raise FileNotFoundError(f"expected one image of that name in {root} but got {listed}")
        return found[0]


def _key(*parts: str) -> str:
    return "/".join(parts).lower()


def enhanced_by(name: str, enhance: Enhancer | Folder, image: Pixels, sample: Sample) -> Pixels:
    """Return a sample's image as an enhancer makes it, or as a folder of its images holds it.

    Args:
        name: of the enhancer, for the error.
        enhance: the enhancer, or a folder of its images.
        image: the sample's, (H, W, 3) uint8 RGB; an enhancer may write into it.
        sample: the sample.

    Raises:
        ValueError: if the result is not of the shape and kind of `image`.
        OSError: if the folder has no such image, or it cannot be read.
    """
    if isinstance(enhance, Folder):
        file = enhance.find(sample.name, sample.light)
        enhanced = load_image(file, upright=sample.upright)
    else:
        enhanced = enhance(image)
    check_enhanced(name, image, enhanced)
    return enhanced


def check_enhanced(name: str, image: Pixels, enhanced: object) -> None:
    """Raise ValueError unless `enhanced` is of the shape and kind of `image`: (H, W, 3) uint8."""
    if not isinstance(enhanced, np.ndarray) or enhanced.shape != image.shape or enhanced.dtype != np.uint8:
        got = type(enhanced).__name__
        if isinstance(enhanced, np.ndarray):
            got = f"{enhanced.dtype} {enhanced.shape}"
        raise ValueError(f"Expected enhancer `{name}` to return uint8 {image.shape} but got {got}.")


def try_out(
    enhancers: Mapping[str, Enhancer | Folder], dataset: Dataset
) -> tuple[dict[str, Enhancer | Folder], list[str]]:
    """Return the enhancers that work, and a line on each that does not, so that it does not cost the others their rows.

    Each is called on 64×64 pixels, which also loads its weights and chooses its kernels outside of the timing. One that
    fails there, such as a network for one size, is called on the first images of the set. Folders are not tried.
    """
    kept = dict(enhancers)
    faults: list[str] = []
    for name, enhance in enhancers.items():
        if not isinstance(enhance, Folder) and (fault := _failure(name, enhance, dataset)):
            del kept[name]
            faults.append(fault)
    return kept, faults


def _failure(name: str, enhance: Enhancer, dataset: Dataset) -> str:
    """Return the error of an enhancer; empty if it works on one of the images that it is tried on."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    first = ""
    for load in (lambda: noise, *(sample.load for sample in dataset.samples[:_TRIED])):
        try:
            with blame(f"enhancer `{name}` is left out, as it failed on all that it was tried on"):
                image = load()
                check_enhanced(name, image, enhance(image.copy()))
            return ""
        except FaultError as error:
            first = first or str(error)
    return first
