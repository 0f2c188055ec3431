"""Tell whose number it is: the same enhanced images scored by the packages that papers take, as a table in Markdown.

    python -m venv whose_number
    whose_number/bin/pip install -r experiments/whose_number.txt
    whose_number/bin/pip install --no-deps --no-build-isolation image-similarity-measures==0.3.6 basicsr==1.4.2
    PYTHONPATH=. whose_number/bin/python experiments/whose_number.py enhanced reference --lpips lpips_alex_full_v0.1.pth

In an environment of its own, since GLARE depends on none of these packages. The two of the third line ask for versions
of others that do not go together, and run without. Each image of ``enhanced`` is compared with the one in ``reference``
that has its name, ending aside. What is not installed, or wants to download weights, is left out and named under the
table. docs/metrics.md holds the table and says how to read it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor

from glare import metrics
from glare.niqe import NIQE
from glare.reading import open_image

Image = NDArray[np.uint8]
Measure = Callable[[Image, Image], float]
DECIMALS = {"PSNR": 2, "SSIM": 4, "LPIPS": 4, "NIQE": 2}
OURS = "GLARE"


@dataclass(frozen=True)
class Row:
    """A definition of a measure: whose, how it is called, what it computes, and a maker of the function.

    The function takes an enhanced image and its reference, (H, W, 3) uint8 RGB; it is made when it is needed, since
    that imports the package.
    """

    measure: str
    package: str
    call: str
    definition: str
    make: Callable[[], Measure]


def unit(image: Image) -> Tensor:
    """Convert (H, W, 3) uint8 to (1, 3, H, W) float32 in [0,1], as networks give images."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def of_tensors(function: Callable[..., Any], **named: Any) -> Measure:
    """Return a function of tensors in [0,1] as one of images."""
    return lambda image, reference: float(function(unit(image), unit(reference), **named))


def of_arrays(function: Callable[..., Any], **named: Any) -> Measure:
    """Return a function of arrays, the reference first, as one of images; of several results the first counts."""

    def measure(image: Image, reference: Image) -> float:
        value = function(reference, image, **named)
        return float(value[0] if isinstance(value, tuple) else value)

    return measure


def package(name: str, function: str) -> Any:
    return getattr(import_module(name), function)


def basicsr(function: str, **named: Any) -> Measure:
    """Return a function of BasicSR's, which takes BGR as OpenCV reads it.

    BasicSR 1.4.2 imports a module that torchvision has made private since: it is lent its old name.
    """
    private = import_module("torchvision.transforms._functional_tensor")
    sys.modules.setdefault("torchvision.transforms.functional_tensor", private)
    measure = package("basicsr.metrics", function)
    if function == "calculate_niqe":
        return lambda image, _: float(np.squeeze(measure(image[..., ::-1], crop_border=0, **named)))
    return lambda image, reference: float(
        measure(image[..., ::-1], reference[..., ::-1], crop_border=0, **named)
    )


def pyiqa(name: str) -> Measure:
    measure = package("pyiqa", "create_metric")(name, device="cpu")
    if name == "niqe":
        return lambda image, _: float(measure(unit(image)))
    return of_tensors(measure)


def kornia_ssim(padding: str) -> Measure:
    ssim = package("kornia.metrics", "ssim")
    return lambda image, reference: float(ssim(unit(image), unit(reference), 11, padding=padding).mean())


def lpips(*, head: str = "0.1", normalize: bool = True) -> Measure:
    return of_tensors(
        package("lpips", "LPIPS")(net="alex", version=head, verbose=False).eval(), normalize=normalize
    )


def own_niqe() -> Measure:
    niqe = NIQE()
    return lambda image, _: float(niqe(unit(image)))


GAUSSIAN = "RGB, Gaussian 11, σ 1.5, valid area"
SKIMAGE = {"data_range": 255, "channel_axis": 2}
WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
LIMITED = "Y of limited range (16 to 235)"


def rows(lpips_file: Path | None) -> list[Row]:
    """Return all definitions, measure by measure, ours first."""
    tm, ism = "torchmetrics.functional.image", "image_similarity_measures.quality_metrics"
    ski = "skimage.metrics"
    found = [
        Row("PSNR", OURS, "psnr", "RGB", lambda: of_tensors(metrics.psnr)),
        Row(
            "PSNR",
            "scikit-image",
            "peak_signal_noise_ratio, data_range=255",
            "RGB",
            lambda: of_arrays(package(ski, "peak_signal_noise_ratio"), data_range=255),
        ),
        Row(
            "PSNR",
            "torchmetrics",
            "peak_signal_noise_ratio, data_range=1.0",
            "RGB",
            lambda: of_tensors(package(tm, "peak_signal_noise_ratio"), data_range=1.0),
        ),
        Row(
            "PSNR",
            "kornia",
            "psnr, max_val=1.0",
            "RGB",
            lambda: of_tensors(package("kornia.metrics", "psnr"), max_val=1.0),
        ),
        Row("PSNR", "piq", "psnr", "RGB", lambda: of_tensors(package("piq", "psnr"))),
        Row("PSNR", "opencv-python", "PSNR", "RGB", lambda: of_arrays(package("cv2", "PSNR"))),
        Row("PSNR", "sewar", "psnr", "RGB", lambda: of_arrays(package("sewar.full_ref", "psnr"))),
        Row("PSNR", "pyiqa", "psnr", "RGB", lambda: pyiqa("psnr")),
        Row("PSNR", "basicsr", "calculate_psnr", "RGB", lambda: basicsr("calculate_psnr")),
        Row("PSNR", "pyiqa", "psnry", "Y of full range", lambda: pyiqa("psnry")),
        Row(
            "PSNR",
            "basicsr",
            "calculate_psnr, test_y_channel",
            LIMITED,
            lambda: basicsr("calculate_psnr", test_y_channel=True),
        ),
        Row(
            "PSNR",
            "image-similarity-measures",
            "psnr, max_p=255",
            "RGB",
            lambda: of_arrays(package(ism, "psnr"), max_p=255),
        ),
        Row(
            "PSNR",
            "image-similarity-measures",
            "psnr by default",
            "RGB of 8 bits taken as of 12: max_p=4095",
            lambda: of_arrays(package(ism, "psnr")),
        ),
        Row("SSIM", OURS, "ssim", GAUSSIAN, lambda: of_tensors(metrics.ssim)),
        Row(
            "SSIM",
            "scikit-image",
            "structural_similarity, " + ", ".join(f"{k}={v}" for k, v in WANG.items()),
            GAUSSIAN,
            lambda: of_arrays(package(ski, "structural_similarity"), **SKIMAGE, **WANG),
        ),
        Row(
            "SSIM",
            "pytorch-msssim",
            "ssim, data_range=1",
            GAUSSIAN,
            lambda: of_tensors(package("pytorch_msssim", "ssim"), data_range=1.0),
        ),
        Row(
            "SSIM",
            "piq",
            "ssim, downsample=False",
            GAUSSIAN,
            lambda: of_tensors(package("piq", "ssim"), downsample=False),
        ),
        Row("SSIM", "kornia", "ssim, padding='valid'", GAUSSIAN, lambda: kornia_ssim("valid")),
        Row("SSIM", "basicsr", "calculate_ssim", GAUSSIAN, lambda: basicsr("calculate_ssim")),
        Row(
            "SSIM",
            "pyiqa",
            "ssimc",
            f"{GAUSSIAN}; negative structure is 0",
            lambda: pyiqa("ssimc"),
        ),
        Row(
            "SSIM",
            "torchmetrics",
            "structural_similarity_index_measure, data_range=1.0",
            "RGB, Gaussian 11, σ 1.5, reflected at the border",
            lambda: of_tensors(package(tm, "structural_similarity_index_measure"), data_range=1.0),
        ),
        Row(
            "SSIM",
            "kornia",
            "ssim by default",
            "RGB, Gaussian 11, σ 1.5, reflected at the border",
            lambda: kornia_ssim("same"),
        ),
        Row(
            "SSIM",
            "scikit-image",
            "structural_similarity by default",
            "RGB, uniform 7, sample covariance, valid area",
            lambda: of_arrays(package(ski, "structural_similarity"), **SKIMAGE),
        ),
        Row(
            "SSIM",
            "sewar",
            "ssim by default",
            "RGB, uniform 11, valid area",
            lambda: of_arrays(package("sewar.full_ref", "ssim")),
        ),
        Row(
            "SSIM",
            "piq",
            "ssim by default",
            "RGB, Gaussian 11, σ 1.5, valid area, of the image averaged down to about 256 pixels",
            lambda: of_tensors(package("piq", "ssim")),
        ),
        Row(
            "SSIM",
            "pyiqa",
            "ssim",
            "Y of full range, rounded to 8 bits, Gaussian 11, σ 1.5, valid area; negative structure is 0",
            lambda: pyiqa("ssim"),
        ),
        Row(
            "SSIM",
            "basicsr",
            "calculate_ssim, test_y_channel",
            f"{LIMITED}, Gaussian 11, σ 1.5, valid area",
            lambda: basicsr("calculate_ssim", test_y_channel=True),
        ),
        Row(
            "SSIM",
            "image-similarity-measures",
            "ssim, max_p=255",
            "RGB, uniform 7, sample covariance, valid area",
            lambda: of_arrays(package(ism, "ssim"), max_p=255),
        ),
        Row(
            "SSIM",
            "image-similarity-measures",
            "ssim by default",
            "RGB of 8 bits taken as of 12: max_p=4095; uniform 7",
            lambda: of_arrays(package(ism, "ssim")),
        ),
        Row(
            "SSIM",
            "pytorch-msssim",
            "ssim by default",
            "images in [0,1] taken as in [0,255]: data_range=255",
            lambda: of_tensors(package("pytorch_msssim", "ssim")),
        ),
        Row("NIQE", OURS, "NIQE", "luma, our model of photographs (BSDS500)", own_niqe),
        Row("NIQE", "pyiqa", "niqe", "Y, the published model", lambda: pyiqa("niqe")),
        Row(
            "NIQE",
            "basicsr",
            "calculate_niqe",
            f"{LIMITED}, the published model",
            lambda: basicsr("calculate_niqe"),
        ),
    ]
    if lpips_file is not None:
        alex = "AlexNet, heads of version 0.1, images in [-1,1]"
        found += [
            Row("LPIPS", OURS, "LPIPS", alex, lambda: of_tensors(metrics.LPIPS(lpips_file))),
            Row("LPIPS", "lpips", "LPIPS, normalize=True", alex, lpips),
            Row(
                "LPIPS",
                "torchmetrics",
                "learned_perceptual_image_patch_similarity, normalize=True",
                alex,
                lambda: of_tensors(
                    package(tm, "learned_perceptual_image_patch_similarity"), net_type="alex", normalize=True
                ),
            ),
            Row("LPIPS", "pyiqa", "lpips", alex, lambda: pyiqa("lpips")),
            Row(
                "LPIPS",
                "lpips",
                "LPIPS by default",
                "AlexNet, heads of version 0.1, images in [0,1] taken as in [-1,1]",
                lambda: lpips(normalize=False),
            ),
            Row(
                "LPIPS",
                "lpips",
                "LPIPS, version='0.0', normalize=True",
                "AlexNet, heads of version 0.0",
                lambda: lpips(head="0.0"),
            ),
        ]
    order = list(DECIMALS)
    return sorted(found, key=lambda row: order.index(row.measure))


@contextmanager
def alexnet_at_hand(file: Path | None) -> Iterator[None]:
    """Lay AlexNet where torchvision keeps its downloads, for packages that take it from there.

    Args:
        file: state_dict of LPIPS-alex, whose backbone it is. What classifies is no part of it, nor of LPIPS: zeros.
    """
    if file is None:
        yield
        return
    state = torch.load(file, map_location="cpu", weights_only=True)
    features = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith("net.slice")}
    network = torchvision.models.alexnet().state_dict()
    content = {name: torch.zeros_like(value) for name, value in network.items()}
    content |= {f"features.{name}": value for name, value in features.items()}
    with tempfile.TemporaryDirectory() as folder:
        hub, before = Path(folder), torch.hub.get_dir()
        (hub / "checkpoints").mkdir()
        name = torchvision.models.AlexNet_Weights.DEFAULT.url.rsplit("/", 1)[1]
        torch.save(content, hub / "checkpoints" / name)
        torch.hub.set_dir(hub)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def read_pairs(enhanced: Path, reference: Path) -> list[tuple[Image, Image]]:
    """Read the images of two folders that have the same name.

    Raises:
        ValueError: if an image has no partner, or there is none.
    """
    partners = {file.stem: file for file in reference.iterdir()}
    files = sorted(enhanced.iterdir())
    if missing := [file.name for file in files if file.stem not in partners] or not files:
        raise ValueError(f"Expected images in {enhanced} with partners in {reference} but got {missing}.")
    return [
        (
            np.array(open_image(file).convert("RGB")),
            np.array(open_image(partners[file.stem]).convert("RGB")),
        )
        for file in files
    ]


def table(pairs: list[tuple[Image, Image]], lpips_file: Path | None) -> str:
    """Return the table in Markdown, and below what was left out and why."""
    lines = ["| measure | value | package | called as | what it computes |", "|---|---|---|---|---|"]
    left_out = []
    for row in rows(lpips_file):
        try:
            told = OURS if row.package == OURS else f"{row.package} {version(row.package)}"
            with redirect_stdout(sys.stderr), torch.inference_mode():  # some packages chat
                measure = row.make()
                value = fmean(measure(*pair) for pair in pairs)
        except PackageNotFoundError:
            left_out.append(f"{row.measure} of {row.package} ({row.call}): not installed")
        except Exception as error:  # whatever a package does, the others are asked
            left_out.append(f"{row.measure} of {row.package} ({row.call}): {type(error).__name__}: {error}")
        else:
            shown = f"{value:.{DECIMALS[row.measure]}f}"
            lines.append(f"| {row.measure} | {shown} | {told} | `{row.call}` | {row.definition} |")
    return "\n".join([*lines, "", *(f"Left out: {line}" for line in left_out)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("enhanced", type=Path, help="folder of enhanced images")
    parser.add_argument("reference", type=Path, help="folder of their references, of the same names")
    parser.add_argument("--lpips", type=Path, help="state_dict of LPIPS-alex, for the rows of that measure")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded
    pairs = read_pairs(args.enhanced, args.reference)
    with alexnet_at_hand(args.lpips):
        print(table(pairs, args.lpips))


if __name__ == "__main__":
    main()
