"""Weights grown by blocks that change nothing yet."""

from dataclasses import replace

import pytest
import torch

from glare.model import GLARE
from glare.training.grow import grow
from tests.glare.conftest import SMALL


def test_computes_the_same_and_can_learn(model: GLARE) -> None:
    low = torch.rand(1, 3, 32, 24)
    grown = grow(model, replace(SMALL, encoder_blocks=(3, 1, 2), decoder_blocks=(2, 1, 1), fusion_blocks=2))
    with torch.no_grad():
        torch.testing.assert_close(grown(low), model(low), rtol=0, atol=1e-5)
    grown(low).square().sum().backward()
    added = (grown.condition.encoder.level0, grown.fusion.decoder.level0, grown.fusion.refine)
    for block in (level.blocks[-1] for level in added):
        assert block.conv2.weight.grad.abs().max() > 0


@pytest.mark.parametrize("changes", [{"encoder_blocks": (2, 1, 1), "codes": 99}, {"channels": 64}])
def test_grows_by_blocks_alone(model: GLARE, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="with more blocks"):
        grow(model, replace(SMALL, **changes))


def test_never_shrinks(model: GLARE) -> None:
    larger = grow(model, replace(SMALL, encoder_blocks=(2, 1, 1)))
    with pytest.raises(ValueError, match="with more blocks"):
        grow(larger, SMALL)
