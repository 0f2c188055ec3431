"""Stage II: an invertible latent normalizing flow, conditioned on the low-light image (GLARE, section 3.2).

The conditional encoder turns the low-light image into a feature that drives the flow and into the mean of the
flow's Gaussian base distribution. Forward, the flow carries the latent of the normal-light image to that Gaussian
(training); backward, it carries the mean to where normal-light latents live (use).

The steps are those of Glow (Kingma & Dhariwal, 2018) with the conditional affine couplings of SRFlow (Lugmayr et
al., ECCV 2020). Every layer's ``forward(z, ...)`` and ``inverse(v, ...)`` return the result and the
log-determinant of its Jacobian, per sample (B,); the two cancel.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.image import log_input
from glare.layers import Encoder


class ActNorm(nn.Module):
    """(x + bias)·exp(logs), one bias and scale per channel, started from data so that the result is normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.logs = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.start_from_data = False

    @torch.no_grad()
    def _start(self, x: Tensor) -> None:
        self.bias.copy_(-x.mean((0, 2, 3), keepdim=True))
        deviation = (x + self.bias).square().mean((0, 2, 3), keepdim=True).sqrt()
        self.logs.copy_(-torch.log(deviation + 1e-6))
        self.start_from_data = False

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant for ``x`` (B,C,H,W): the same number for every sample, (1,)."""
        return self.logs.sum().view(1) * (x.shape[2] * x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W)."""
        if self.start_from_data:
            self._start(x)
        return (x + self.bias) * self.logs.exp()

    def inverse(self, v: Tensor) -> Tensor:
        """The inverse of `forward`."""
        return v * torch.exp(-self.logs) - self.bias


class InvertibleConv(nn.Module):
    """1×1 convolution with a plain square matrix, a rotation at the start (Glow)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def log_det(self, x: Tensor) -> Tensor:
        """Log-determinant for ``x`` (B,C,H,W): the same number for every sample, (1,)."""
        log_det: Tensor = torch.linalg.slogdet(self.weight)[1]
        return log_det.view(1) * (x.shape[2] * x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,H,W) -> (B,C,H,W)."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def inverse(self, v: Tensor) -> Tensor:
        """The inverse of `forward`; the matrix is inverted in float64."""
        matrix = torch.linalg.inv(self.weight.double()).to(v.dtype)
        return F.conv2d(v, matrix[:, :, None, None])


class CouplingNetwork(nn.Module):
    """3×3 conv, actnorm, ReLU, 1×1 conv, actnorm, ReLU, 3×3 conv: what an affine map's shift and scale come from."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, scale_floor: float) -> None:
        super().__init__()
        self.scale_floor = scale_floor
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False)
        self.norm1 = ActNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.norm2 = ActNorm(hidden)
        # Zero at the start: the coupling begins as (nearly) the identity.
        self.conv3 = nn.Conv2d(hidden, 2 * out_channels, 3, padding=1)
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)  # type: ignore[arg-type]
        self.logs = nn.Parameter(torch.zeros(2 * out_channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B,in,H,W) -> shift and scale, each (B,out,H,W); the scale lies in (floor, 1+floor)."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return self.shift_and_scale(self.conv3(h) * torch.exp(3.0 * self.logs))

    def shift_and_scale(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The last convolution's result (B,2·out,H,W) -> shift and scale."""
        return h[:, 0::2], torch.sigmoid(h[:, 1::2] + 2.0) + self.scale_floor

    def folded(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the three convolutions, each with the norm or the factor that follows it."""
        result = []
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            scale = norm.logs.exp().flatten()
            result.append((conv.weight * scale.view(-1, 1, 1, 1), norm.bias.flatten() * scale))
        scale = torch.exp(3.0 * self.logs).flatten()
        assert self.conv3.bias is not None
        return [*result, (self.conv3.weight * scale.view(-1, 1, 1, 1), self.conv3.bias * scale)]


class Coupling(nn.Module):
    """Two affine maps: of all channels by the condition alone, then of z2 by z1 and the condition (SRFlow)."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        channels, given = config.latent_channels, config.condition_channels
        hidden, floor = config.flow_hidden, config.flow_scale_floor
        self.split = channels // 2
        self.injector = CouplingNetwork(given, hidden, channels, floor)
        self.affine = CouplingNetwork(self.split + given, hidden, channels - self.split, floor)

    def forward(self, z: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """(B,C,H,W) and condition (B,F,H,W) -> result and log-determinant (B,)."""
        shift, scale = self.injector(feature)
        z = (z + shift) * scale
        z1, z2 = z[:, : self.split], z[:, self.split :]
        shift2, scale2 = self.affine(torch.cat((z1, feature), 1))
        log_det = scale.log().sum((1, 2, 3)) + scale2.log().sum((1, 2, 3))
        return torch.cat((z1, (z2 + shift2) * scale2), 1), log_det

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `forward`."""
        z1, v2 = v[:, : self.split], v[:, self.split :]
        shift2, scale2 = self.affine(torch.cat((z1, feature), 1))
        shift, scale = self.injector(feature)
        log_det = -(scale.log().sum((1, 2, 3)) + scale2.log().sum((1, 2, 3)))
        return torch.cat((z1, v2 / scale2 - shift2), 1) / scale - shift, log_det

    def inverse_folded(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """`inverse` for use without gradients: norms folded into the convolutions, z1 and the condition not joined."""
        first, second, third = self.injector.folded()
        h = F.relu(F.conv2d(feature, *first, padding=1))
        shift, scale = self.injector.shift_and_scale(
            F.conv2d(F.relu(F.conv2d(h, *second)), *third, padding=1)
        )
        (weight, bias), second, third = self.affine.folded()
        z1, v2 = v[:, : self.split], v[:, self.split :]
        of_z1, of_feature = weight[:, : self.split], weight[:, self.split :]
        h = F.relu(F.conv2d(feature, of_feature, bias, padding=1) + F.conv2d(z1, of_z1, padding=1))
        shift2, scale2 = self.affine.shift_and_scale(
            F.conv2d(F.relu(F.conv2d(h, *second)), *third, padding=1)
        )
        log_det = -(scale.log().sum((1, 2, 3)) + scale2.log().sum((1, 2, 3)))
        return torch.cat((z1, v2 / scale2 - shift2), 1) / scale - shift, log_det


class FlowStep(nn.Module):
    """Actnorm, 1×1 convolution and, unless the step is plain, a coupling."""

    def __init__(self, config: GLAREConfig, plain: bool) -> None:
        super().__init__()
        self.actnorm = ActNorm(config.latent_channels)
        self.invconv = InvertibleConv(config.latent_channels)
        self.coupling = None if plain else Coupling(config)

    def forward(self, z: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """(B,C,H,W) and condition -> result and log-determinant (B,)."""
        z = self.invconv(self.actnorm(z))
        log_det = (self.actnorm.log_det(z) + self.invconv.log_det(z)).expand(len(z))
        if self.coupling is not None:
            z, coupling_log_det = self.coupling(z, feature)
            log_det = log_det + coupling_log_det
        return z, log_det

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `forward`."""
        log_det = -(self.actnorm.log_det(v) + self.invconv.log_det(v)).expand(len(v))
        if self.coupling is not None:
            v, coupling_log_det = self.coupling.inverse(v, feature)
            log_det = log_det + coupling_log_det
        return self.actnorm.inverse(self.invconv.inverse(v)), log_det


class Flow(nn.Module):
    """The latent normalizing flow: all steps at the latent's resolution, under one condition.

    It computes in float32 (or float64) whatever the autocast: errors in a chain of inverses add up.
    """

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        plain = ([True] * config.flow_plain_steps + [False] * config.flow_steps) * config.flow_levels
        self.steps = nn.ModuleList(FlowStep(config, p) for p in plain)

    def forward(self, z: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Carry a latent to the base distribution.

        Args:
            z: latent of a normal-light image (B,C,h,w).
            feature: condition (B,F,h,w).

        Returns:
            v (B,C,h,w), and the log-determinant of dv/dz per sample (B,), in nats.
        """
        return self._run(z, feature, inverse=False)

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Carry ``v`` (B,C,h,w) back to a latent z; the log-determinant is that of dz/dv."""
        if torch.is_grad_enabled():
            return self._run(v, feature, inverse=True)
        return self._inverse_folded(v, feature)

    def _run(self, x: Tensor, feature: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            x, feature = x.to(dtype), feature.to(dtype)
            log_det = x.new_zeros(len(x))
            steps = [cast(FlowStep, step) for step in self.steps]
            for step in reversed(steps) if inverse else steps:
                x, step_log_det = step.inverse(x, feature) if inverse else step(x, feature)
                log_det = log_det + step_log_det
        return x, log_det

    def _inverse_folded(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse for use without gradients: what lies between two couplings is one affine map of the channels."""
        with torch.autocast(v.device.type, enabled=False):
            dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
            v, feature = v.to(dtype), feature.to(dtype)
            log_det = v.new_zeros(len(v))
            nothing = torch.eye(v.shape[1], dtype=torch.float64, device=v.device)
            matrix, offset = nothing, nothing.new_zeros(len(nothing))
            for step in reversed([cast(FlowStep, step) for step in self.steps]):
                if step.coupling is not None:
                    v = _map_channels(v, matrix, offset)
                    matrix, offset = nothing, torch.zeros_like(offset)
                    v, coupling_log_det = step.coupling.inverse_folded(v, feature)
                    log_det = log_det + coupling_log_det
                scale = torch.exp(-step.actnorm.logs.double().flatten())
                back = scale[:, None] * torch.linalg.inv(step.invconv.weight.double())
                matrix, offset = back @ matrix, back @ offset - step.actnorm.bias.double().flatten()
                log_det = log_det - step.actnorm.log_det(v) - step.invconv.log_det(v)
            return _map_channels(v, matrix, offset), log_det

    @torch.no_grad()
    def start_from_data(self, z: Tensor, feature: Tensor) -> None:
        """Set every actnorm so that its output on this batch has mean 0 and deviation 1; once, before training."""
        for module in self.modules():
            if isinstance(module, ActNorm):
                module.start_from_data = True
        self(z, feature)


def _map_channels(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """matrix · x + offset at every position: (B,C,H,W), (C,C), (C,) -> (B,C,H,W)."""
    mapped = matrix.to(x.dtype) @ x.flatten(2) + offset.to(x.dtype)[:, None]
    return mapped.view(x.shape)


def negative_log_likelihood(v: Tensor, mean: Tensor, log_det: Tensor) -> Tensor:
    """Bits per latent pixel under the base distribution N(mean, 1): (B,C,h,w), (B,C,h,w), (B,) -> (B,)."""
    log_p = -0.5 * ((v - mean).square() + math.log(2.0 * math.pi)).sum((1, 2, 3))
    return -(log_det + log_p) / (math.log(2.0) * v.shape[2] * v.shape[3])


class Condition(NamedTuple):
    """What the conditional encoder sees in a low-light image (B,3,H,W)."""

    feature: Tensor  #: drives the flow, (B,F,H/4,W/4) in (0,1)
    mean: Tensor  #: mean of the base distribution, (B,C,H/4,W/4)
    skips: tuple[Tensor, Tensor]  #: encoder features at full and at 1/2 size, for stage III


class ConditionalEncoder(nn.Module):
    """The encoder of stage I on the logarithm of the low-light image, with two heads."""

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.feature = nn.Conv2d(config.latent_channels, config.condition_channels, 3, padding=1)
        self.mean = nn.Conv2d(config.latent_channels, config.latent_channels, 3, padding=1)

    def forward(self, low: Tensor) -> Condition:
        """(B,3,H,W) in [0,1], H and W multiples of 4 -> `Condition`."""
        latent, skips = self.encoder(log_input(low))
        return Condition(torch.sigmoid(self.feature(latent)), self.mean(latent), skips)
