import pytest
import torch

from glare.condition import ConditionalEncoder
from glare.config import GLAREConfig
from glare.image import log_input
from tests.glare.conftest import FOLDED, SMALL


@pytest.mark.parametrize("config", [SMALL, FOLDED], ids=["small", "folded"])
@torch.no_grad()
def test_shapes(config: GLAREConfig) -> None:
    low = torch.rand(2, 3, 32, 48)
    condition = ConditionalEncoder(config)(low)
    height, width = 32 // config.stride, 48 // config.stride
    assert condition.feature.shape == (2, config.condition_channels, height, width)
    assert 0 < condition.feature.min() < condition.feature.max() < 1
    assert condition.mean.shape == (2, config.latent_channels, height, width)
    *detail, full, half = condition.skips
    assert full.shape == (2, config.widths[0], 4 * height, 4 * width)
    assert half.shape == (2, config.widths[1], 2 * height, 2 * width)
    assert len(detail) == (config.detail_channels > 0)
    for seen in detail:
        assert torch.equal(seen, log_input(low))


@torch.no_grad()
def test_heads_are_what_a_condition_is_made_of() -> None:
    torch.manual_seed(0)
    encoder, low = ConditionalEncoder(SMALL), torch.rand(1, 3, 16, 16)
    feature, mean = encoder.heads(encoder.encoder(log_input(low))[0])
    condition = encoder(low)
    assert torch.equal(condition.feature, feature)
    assert torch.equal(condition.mean, mean)
