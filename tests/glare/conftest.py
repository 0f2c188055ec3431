import dataclasses

import pytest
import torch

from glare.config import GLAREConfig
from glare.model import GLARE

#: The smallest network with every part of the big one.
SMALL = GLAREConfig(
    channels=8,
    multipliers=(1, 2, 2),
    encoder_blocks=(1, 1, 1),
    decoder_blocks=(1, 1, 1),
    fusion_blocks=1,
    norm_groups=4,
    codes=32,
    condition_channels=4,
    flow_plain_steps=1,
    flow_steps=1,
    flow_hidden=8,
    warp_groups=2,
)

#: The same on a grid of squares of pixels, with what goes with that.
FOLDED = dataclasses.replace(SMALL, stem=2, narrow_up=True, warp_levels=(2,), detail_channels=4)


def randomise(model: torch.nn.Module) -> None:
    """Leave the starting point, where offsets and couplings are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "invconv" not in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def config() -> GLAREConfig:
    return SMALL


@pytest.fixture
def model() -> GLARE:
    torch.manual_seed(0)
    model = GLARE(SMALL)
    randomise(model)
    return model.eval()
