import pytest
import torch
import torch.nn.functional as F

from glare import layers
from glare.config import GLAREConfig
from glare.layers import Attention, Decoder, Downsample, Encoder, Upsample, fold, unfold
from tests.glare.conftest import FOLDED


class TestFold:
    def test_a_square_of_pixels_becomes_channels(self) -> None:
        image = torch.arange(2.0 * 3 * 4 * 6).view(2, 3, 4, 6)
        folded = fold(image, 2)
        assert folded.shape == (2, 12, 2, 3)
        torch.testing.assert_close(folded[:, 4:8, 1, 2].view(2, 2, 2), image[:, 1, 2:4, 4:6])
        assert torch.equal(unfold(folded, 2), image)

    def test_of_single_pixels_it_is_nothing(self) -> None:
        image = torch.rand(1, 3, 3, 5)
        assert fold(image, 1) is image
        assert unfold(image, 1) is image


class TestUpsample:
    @pytest.mark.parametrize("size", [(1, 1), (1, 5), (7, 4)])
    def test_both_ways_agree(self, size: tuple[int, int]) -> None:
        layer = Upsample(6, 4).double()
        x = torch.randn(2, 6, *size, dtype=torch.float64)
        plain = layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), plain, rtol=1e-12, atol=1e-12)


class TestDownsample:
    def test_pads_right_and_bottom_only(self) -> None:
        layer = Downsample(1)
        with torch.no_grad():
            layer.conv.weight.zero_()
            layer.conv.bias.zero_()
            layer.conv.weight[0, 0, 0, 0] = 1.0
            x = torch.arange(16.0).view(1, 1, 4, 4)
            # The first tap of the kernel falls on the even positions themselves.
            torch.testing.assert_close(layer(x), x[..., ::2, ::2])


class TestAttention:
    def test_equals_softmax_of_scaled_products(self) -> None:
        layer = Attention(8, 4).double()
        x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
        h = layer.norm(x)
        q, k, v = (f(h).flatten(2) for f in (layer.q, layer.k, layer.v))
        weights = torch.softmax(q.mT @ k * 8**-0.5, -1)
        expected = x + layer.proj((v @ weights.mT).view_as(x))
        torch.testing.assert_close(layer(x), expected)

    def test_a_grid_that_is_not_smaller_than_the_map_changes_nothing(self) -> None:
        torch.manual_seed(0)
        whole, pooled = Attention(8, 4), Attention(8, 4, grid=6)
        pooled.load_state_dict(whole.state_dict())
        x = torch.randn(1, 8, 6, 5)
        torch.testing.assert_close(whole(x), pooled(x))
        x = torch.randn(1, 8, 12, 5)
        assert not torch.allclose(whole(x), pooled(x), atol=1e-5)

    @pytest.mark.parametrize("at_once", [1, 2 * 5 * 7, 2**23])
    @torch.no_grad()
    def test_in_bfloat16_it_goes_in_blocks(self, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(layers, "SCORES_AT_ONCE", at_once)
        torch.manual_seed(0)
        q, k, v = torch.randn(2, 1, 13, 8), torch.randn(2, 1, 7, 8), torch.randn(2, 1, 7, 8)
        expected = F.scaled_dot_product_attention(q, k, v)
        monkeypatch.setattr(F, "scaled_dot_product_attention", None)
        found = Attention.average(q.bfloat16(), k.bfloat16(), v.bfloat16())
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


def test_encoder_shapes(config: GLAREConfig) -> None:
    latent, (full, half) = Encoder(config)(torch.rand(2, 3, 16, 24))
    assert latent.shape == (2, 3, 4, 6)
    assert full.shape == (2, 8, 16, 24)
    assert half.shape == (2, 16, 8, 12)


def test_shapes_on_a_folded_grid() -> None:
    latent, (full, half) = Encoder(FOLDED)(torch.rand(2, 3, 16, 24))
    assert latent.shape == (2, 3, 2, 3)
    assert full.shape == (2, 8, 8, 12)
    assert half.shape == (2, 16, 4, 6)
    decoder = Decoder(FOLDED)
    assert decoder.up0(half).shape == full.shape  # narrow_up
    assert decoder(latent).shape == (2, 3, 16, 24)
