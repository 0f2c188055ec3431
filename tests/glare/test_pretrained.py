"""The weights that come with the package."""

import pytest
import skimage
import torch
import yaml
from torch import Tensor

from glare import GLAREEnhance, weights
from glare.data.degrade import degrade, generator_for
from glare.metrics import psnr, ssim


@pytest.fixture(scope="module")
def enhance() -> GLAREEnhance:
    return GLAREEnhance()


@pytest.mark.parametrize("name", weights.available())
def test_size_card_and_history(name: str) -> None:
    path = weights.find(name)
    assert path.stat().st_size <= 16 * 2**20
    head = path.with_name(weights.CARD).read_text(encoding="utf-8").split("---")[1]
    assert "non-commercial" in yaml.safe_load(head)["license_name"]
    stages = [entry["stage"] for entry in weights.history(name)]
    assert stages[:2] == ["codebook", "flow"]
    assert {stage.partition(",")[0] for stage in stages[2:]} == {"fusion"}


@pytest.mark.parametrize("photograph", ["astronaut", "coffee", "chelsea"])
def test_a_dark_photograph_comes_nearer_to_the_day(enhance: GLAREEnhance, photograph: str) -> None:
    day = torch.from_numpy(getattr(skimage.data, photograph)()).movedim(-1, 0)[None].float() / 255
    dark = degrade(day, exposure=0.04, generator=generator_for("test", photograph))
    with torch.no_grad():
        restored = enhance(dark)
    assert psnr(restored, day).item() > psnr(dark, day).item() + 3
    assert ssim(restored, day).item() > ssim(dark, day).item() + 0.1


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 3, 64, 64),
        torch.ones(1, 3, 64, 64),
        torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        torch.eye(64).expand(1, 3, 64, 64),
        torch.rand(1, 3, 1, 1),
    ],
    ids=["black", "white", "noise", "line", "pixel"],
)
def test_images_unlike_any_it_has_seen_stay_finite(enhance: GLAREEnhance, image: Tensor) -> None:
    with torch.no_grad():
        for fidelity in (0.0, 1.0, 2.0):
            assert enhance.model(image, fidelity=fidelity).isfinite().all()
