"""Stage I: a codebook of normal-light features, learned by a VQGAN (GLARE, section 3.1).

The encoder turns an image into a latent at a quarter of its size or less. The nearest of the codes replaces each
position of the latent, and the decoder turns the codes back into an image. Stage III borrows the decoder's features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.layers import Decoder, Encoder

#: Distances that the search for the nearest code holds at once. On a CPU they stay in a core's cache, where the search
#: is four times as fast; a GPU needs more of them to be busy.
SEARCH_ELEMENTS = {"cpu": 2**20, "cuda": 2**23}


class Quantizer(nn.Module):
    """Nearest entry of a learned codebook (van den Oord et al., "Neural Discrete Representation Learning", 2017)."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)
        nn.init.uniform_(self.embedding.weight, -1.0, 1.0)

    @torch.no_grad()
    def nearest(self, latent: Tensor) -> Tensor:
        """Return the index of the nearest code (L2) for each position: (B,C,H,W) -> (B,H,W), int64.

        The search is in float32, whatever the autocast, and in chunks: the memory does not grow with codes × positions.
        """
        codes = self.embedding.weight.float()
        flat = latent.float().movedim(1, -1).reshape(-1, codes.shape[1])
        norms = codes.square().sum(1)
        with torch.autocast(latent.device.type, enabled=False):
            # |z - c|² less |z|², which is the same for all codes. `min` is twice as fast as `argmin` on a CPU.
            elements = SEARCH_ELEMENTS.get(latent.device.type, 2**23)
            indices = [
                torch.addmm(norms, chunk, codes.T, alpha=-2.0).min(1).indices
                for chunk in torch.split(flat, max(1, elements // len(codes)))
            ]
        return torch.cat(indices).view(latent.shape[0], *latent.shape[2:])

    def lookup(self, indices: Tensor) -> Tensor:
        """Return the codes at ``indices``: (B,H,W) -> (B,C,H,W)."""
        return F.embedding(indices, self.embedding.weight).movedim(-1, 1)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes of a latent (B,C,H,W), with a gradient straight to it, and the indices (B,H,W)."""
        indices = self.nearest(latent)
        codes = self.lookup(indices).to(latent.dtype)
        return latent + (codes - latent).detach(), indices

    def loss(self, latent: Tensor, indices: Tensor) -> Tensor:
        """Return the codebook loss 0.25·‖sg(z_q) − z‖² + ‖z_q − sg(z)‖² (means), a scalar."""
        codes = self.lookup(indices).to(latent.dtype)
        return 0.25 * F.mse_loss(latent, codes.detach()) + F.mse_loss(codes, latent.detach())


class Codebook(nn.Module):
    """The VQGAN's generator: encoder, quantiser, decoder.

    Images are RGB in [0,1], their sides multiples of `GLAREConfig.stride`, each such square a position of the latent.
    """

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(channels, channels, 1)
        self.quantizer = Quantizer(config.codes, channels)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)
        self.decoder = Decoder(config)

    def encode(self, image: Tensor) -> Tensor:
        """Encode images (B,3,H,W) in [0,1] to a latent (B,C,h,w), not quantised: the target of the flow."""
        return self.quant_conv(self.encoder(image)[0])  # type: ignore[no-any-return]

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the codes (B,C,H,W) of a latent (B,C,H,W), their indices (B,H,W) and the codebook loss."""
        codes, indices = self.quantizer(latent)
        return codes, indices, self.quantizer.loss(latent, indices)

    def codes(self, latent: Tensor) -> Tensor:
        """Quantise a latent (B,C,H,W) and return the input of the decoder, of the same shape."""
        return self.post_quant_conv(self.quantizer(latent)[0])  # type: ignore[no-any-return]

    def decode(self, latent: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Quantise and decode a latent (B,C,h,w): image (B,3,H,W), not clamped, and features at full and 1/2 size."""
        half = self.decoder.to_half(self.decoder.to_quarter(self.codes(latent)))
        full = self.decoder.to_full(half)
        return self.decoder.image(full), (full, half)

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Decode codes (B,C,h,w), as `quantize` gives them, to an image (B,3,H,W), not clamped."""
        return self.decoder(self.post_quant_conv(codes))  # type: ignore[no-any-return]

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruct ``image`` (B,3,H,W) -> image (B,3,H,W), indices (B,h,w), codebook loss."""
        codes, indices, loss = self.quantize(self.encode(image))
        return self.decode_codes(codes), indices, loss
