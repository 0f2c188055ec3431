"""Toy pictures, a toy network and what the tests of the training share."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glare import weights
from glare.model import GLARE
from tests.glare.conftest import SMALL


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    for i in range(4):
        noise = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(i))
        picture = Image.fromarray((255 * noise).byte().movedim(0, -1).numpy()).resize(
            (64, 48), Image.Resampling.BICUBIC
        )
        for name, scale in (("low", 0.1), ("high", 1.0)):
            (root / name).mkdir(exist_ok=True)
            picture.point(lambda v, scale=scale: round(v * scale)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("start")
    weights.save(GLARE(SMALL), folder)
    return folder


def arguments(stage: str, pairs: Path, init: Path, out: Path, steps: int, *more: str) -> list[str]:
    words = f"train {stage} --pairs {pairs} --init {init} --out {out} --steps {steps} --batch 2 --crop 32 --workers 0"
    return [*words.split(), "--dtype", "float32", *more]


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def halves(factor: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    return lambda images: [F.avg_pool2d(images, int(factor))]


def brightness(argument: str) -> Callable[[Callable[[torch.Tensor], torch.Tensor]], torch.Tensor]:
    wanted = float(argument.partition("=")[2])
    return lambda restore: (restore(torch.rand(1, 3, 32, 32) / 8).mean() - wanted).abs()
