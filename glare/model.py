"""GLARE: low-light image -> condition -> flow inverse -> codes -> fusion -> image (GLARE, figure 2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from glare.codebook import Codebook
from glare.condition import Condition, ConditionalEncoder
from glare.config import GLAREConfig
from glare.flow import Flow
from glare.fusion import Fusion
from glare.image import pad


class GLARE(nn.Module):
    """The full three-stage model.

    Zhou et al., "GLARE: Low Light Image Enhancement via Generative Latent Feature based Codebook Retrieval",
    ECCV 2024.

    Attributes:
        codebook: stage I, the VQGAN.
        condition: stage II, the conditional encoder.
        flow: stage II, the invertible latent normalizing flow.
        fusion: stage III, the adaptive feature transformation.

    >>> model = GLARE("tiny")  # random weights; `from_pretrained` has trained ones
    >>> low = torch.rand(1, 3, 40, 32) / 10
    >>> model(low).shape
    torch.Size([1, 3, 40, 32])
    >>> model.codebook.encode(low).shape  # the stages are there for whoever studies them
    torch.Size([1, 8, 5, 4])
    """

    def __init__(self, config: GLAREConfig | str = "tiny") -> None:
        super().__init__()
        self.config = GLAREConfig.preset(config) if isinstance(config, str) else config
        self.codebook = Codebook(self.config)
        self.condition = ConditionalEncoder(self.config)
        self.flow = Flow(self.config)
        self.fusion = Fusion(self.config)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> GLARE:
        """Load weights by name, folder, ``.safetensors`` file or hub id: see `glare.weights.load`.

        >>> GLARE.from_pretrained("glare-tiny").training
        False
        """
        from glare import weights  # which imports this module

        return weights.load(name)

    def optimize(self) -> GLARE:
        """Return a frozen copy for use, its weights in the order in which convolutions take them.

        Its results are those of this model, to rounding, now and whatever becomes of this model's parameters. It
        passes gradients to the image; its parameters take none.
        """
        with torch.inference_mode(False):  # tensors made in inference mode could not take part in a gradient
            frozen = copy.deepcopy(self).requires_grad_(False)
            return frozen.to(memory_format=torch.channels_last).eval()

    def misfits(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Return a line for each tensor that is missing, left over or misshapen as a ``state_dict`` of this model."""
        expected = self.state_dict()
        lines = [f"  missing: {key}" for key in expected if key not in tensors]
        lines += [f"  left over: {key}" for key in tensors if key not in expected]
        lines += [
            f"  misshapen: {key} is {tuple(tensors[key].shape)}, expected {tuple(value.shape)}"
            for key, value in expected.items()
            if key in tensors and tensors[key].shape != value.shape
        ]
        return lines

    def pad(self, low: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Pad images (B,3,H,W) to sides that the network takes; return also the function that cuts a result back."""
        stride = self.config.stride
        # GroupNorm refuses a latent of a single position.
        return pad(low, stride if min(low.shape[2:]) > stride else 2 * stride)

    def cut(self, *images: Tensor) -> list[Tensor]:
        """Cut images of one size (B,3,H,W) at the right and the bottom to sides that the network's parts take."""
        stride = self.config.stride
        height, width = (side // stride * stride for side in images[0].shape[2:])
        return [image[..., :height, :width] for image in images]

    def restore_latent(self, low: Tensor) -> tuple[Tensor, Condition]:
        """Run stage II on (B,3,H,W), multiples of the stride: the normal-light latent (B,C,h,w) and the condition."""
        # In any other memory format, convolutions of few channels spend half their time on reordering.
        condition: Condition = self.condition(low.contiguous(memory_format=torch.channels_last))
        return self.invert(condition.feature, condition.mean), condition

    def invert(self, feature: Tensor, mean: Tensor) -> Tensor:
        """Return the latent (B,C,h,w) to which the flow, under the feature (B,F,h,w), carries the mean."""
        return self.bounded(self.flow.inverse(mean, feature)[0])

    def bounded(self, latent: Tensor) -> Tensor:
        """Keep a latent of the flow within ± `GLAREConfig.latent_limit`."""
        limit = self.config.latent_limit
        return latent if limit is None else latent.clamp(-limit, limit)

    def code_features(self, latent: Tensor) -> list[Tensor | None]:
        """Return the codebook decoder's features of a latent (B,C,h,w) that warps use, at full, 1/2 and 1/4 size."""
        decoder, wanted = self.codebook.decoder, self.config.warp_levels
        features: list[Tensor | None] = [None, None, None]
        h = self.codebook.codes(latent)
        for level, to_level in ((2, decoder.to_quarter), (1, decoder.to_half), (0, decoder.to_full)):
            if level >= min(wanted):
                h = to_level(h)
                features[level] = h if level in wanted else None
        return features

    def forward(self, low: Tensor, fidelity: float = 1.0) -> Tensor:
        """Enhance low-light images.

        Args:
            low: (B,3,H,W) float in [0,1], RGB; any H, W >= 1.
            fidelity: in [0, 2]. 1 is the trained model, 0 leans wholly on the codebook prior, above 1 on the
                input's detail.

        Returns:
            (B,3,H,W), about [0,1] but not clamped; the result of an image does not depend on the others.

        Raises:
            ValueError: if the shape, the type or ``fidelity`` is not as above.
        """
        if low.ndim != 4 or low.shape[1] != 3 or 0 in low.shape:
            raise ValueError(f"Expected argument `low` to have shape (B,3,H,W) but got {tuple(low.shape)}.")
        if not low.is_floating_point():
            raise ValueError(f"Expected argument `low` to be floating point in [0,1] but got {low.dtype}.")
        if not 0.0 <= fidelity <= 2.0:
            raise ValueError(f"Expected argument `fidelity` to be in [0, 2] but got {fidelity}.")
        padded, crop = self.pad(low)
        latent, condition = self.restore_latent(padded)
        skips = list(condition.skips)
        del condition  # so that nothing but the list holds the maps that `consume` lets go of
        return crop(self.fusion.consume(latent, self.code_features(latent), skips, fidelity))
