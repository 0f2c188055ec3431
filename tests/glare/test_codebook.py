import pytest
import torch

import glare.codebook
from glare.codebook import Quantizer
from glare.model import GLARE


class TestQuantizer:
    def test_finds_the_nearest_code(self) -> None:
        quantizer = Quantizer(50, 3)
        latent = torch.randn(2, 3, 5, 7)
        distances = torch.cdist(latent.movedim(1, -1).reshape(-1, 3), quantizer.embedding.weight.detach())
        assert torch.equal(quantizer.nearest(latent).flatten(), distances.argmin(1))

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        quantizer = Quantizer(50, 3)
        latent = torch.randn(2, 3, 5, 7)
        whole = quantizer.nearest(latent)
        monkeypatch.setattr(glare.codebook, "SEARCH_ELEMENTS", {"cpu": 120})
        assert torch.equal(quantizer.nearest(latent), whole)

    def test_gradient_passes_straight_through(self) -> None:
        quantizer = Quantizer(50, 3)
        latent = torch.randn(1, 3, 4, 4, requires_grad=True)
        codes, indices = quantizer(latent)
        weight = torch.randn_like(codes)
        (codes * weight).sum().backward()
        torch.testing.assert_close(latent.grad, weight)
        torch.testing.assert_close(codes, quantizer.lookup(indices))

    def test_loss_pulls_codes_and_latents_together(self) -> None:
        quantizer = Quantizer(50, 3)
        latent = torch.randn(1, 3, 4, 4, requires_grad=True)
        codes, indices = quantizer(latent)
        loss = quantizer.loss(latent, indices)
        assert loss.item() == pytest.approx(1.25 * (codes - latent).square().mean().item(), rel=1e-5)
        loss.backward()
        difference = (latent - codes).detach()
        torch.testing.assert_close(latent.grad, 0.25 * 2 * difference / difference.numel())
        assert quantizer.embedding.weight.grad.abs().sum() > 0

    def test_same_codes_under_autocast(self) -> None:
        quantizer = Quantizer(50, 3)
        latent = torch.randn(1, 3, 16, 16)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantizer.nearest(latent), quantizer.nearest(latent.clone()))
            found = quantizer.nearest(latent)
        assert torch.equal(found, quantizer.nearest(latent))


def test_public_shapes(model: GLARE) -> None:
    image = torch.rand(2, 3, 16, 24)
    latent = model.codebook.encode(image)
    assert latent.shape == (2, 3, 4, 6)
    z_q, indices, loss = model.codebook.quantize(latent)
    assert (z_q.shape, indices.shape, loss.shape) == (latent.shape, (2, 4, 6), ())
    decoded, (full, half) = model.codebook.decode(latent)
    assert decoded.shape == image.shape
    assert (half.shape, full.shape) == ((2, 16, 8, 12), (2, 8, 16, 24))
    torch.testing.assert_close(model.codebook(image)[0], decoded)
