"""Stage II: an invertible latent normalizing flow, conditioned on the low-light image (GLARE, section 3.2).

The conditional encoder (`glare.condition`) turns the low-light image into a feature that drives the flow and into the
mean of the flow's Gaussian base distribution. Forward, the flow carries the latent of the normal-light image to that
Gaussian (training); backward, it carries the mean to where normal-light latents live (use).

The steps are those of Glow (Kingma & Dhariwal, 2018) with the conditional affine couplings of SRFlow (Lugmayr et al.,
ECCV 2020). `Coupling`, `FlowStep` and `Flow` return, forward and inverse, the result and the log-determinant of its
Jacobian, per sample (B,); the two log-determinants cancel. `ActNorm` and `InvertibleConv` return the result alone:
their log-determinant depends on their weights and is told by ``log_det``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig


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
        """Return the log-determinant for ``x`` (B,C,H,W): the same number for every sample, (1,)."""
        return self.logs.sum().view(1) * (x.shape[2] * x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B,C,H,W)."""
        if self.start_from_data:
            self._start(x)
        return (x + self.bias) * self.logs.exp()

    def inverse(self, v: Tensor) -> Tensor:
        """Undo `forward`."""
        return v * torch.exp(-self.logs) - self.bias


class InvertibleConv(nn.Module):
    """1×1 convolution with a plain square matrix, which starts as a rotation (Glow)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].contiguous())

    def log_det(self, x: Tensor) -> Tensor:
        """Return the log-determinant for ``x`` (B,C,H,W): the same number for every sample, (1,)."""
        log_det: Tensor = torch.linalg.slogdet(self._exact())[1].to(x)
        return log_det.view(1) * (x.shape[2] * x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        """Transform (B,C,H,W)."""
        return F.conv2d(x, self.weight[:, :, None, None])

    def inverse(self, v: Tensor) -> Tensor:
        """Undo `forward`; the matrix is inverted in float64."""
        matrix = torch.linalg.inv(self._exact()).to(v)
        return F.conv2d(v, matrix[:, :, None, None])

    def _exact(self) -> Tensor:
        """Return the matrix in float64, on the CPU where the device has no float64 (Apple's)."""
        return (self.weight.cpu() if self.weight.device.type == "mps" else self.weight).double()


class CouplingNetwork(nn.Module):
    """3×3 conv, actnorm, ReLU, 1×1 conv, actnorm, ReLU, 3×3 conv: the shift and scale of an affine map."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, scale_floor: float) -> None:
        super().__init__()
        self.scale_floor = scale_floor
        self.conv1 = nn.Conv2d(in_channels, hidden, 3, padding=1, bias=False)
        self.norm1 = ActNorm(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 1, bias=False)
        self.norm2 = ActNorm(hidden)
        # Zeros, so that the coupling starts as (nearly) the identity.
        self.conv3 = nn.Conv2d(hidden, 2 * out_channels, 3, padding=1)
        nn.init.zeros_(self.conv3.weight)
        nn.init.zeros_(self.conv3.bias)  # type: ignore[arg-type]
        self.logs = nn.Parameter(torch.zeros(2 * out_channels, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return shift and scale, each (B,out,H,W), for (B,in,H,W); the scale lies in (floor, 1+floor)."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        h = self.conv3(h) * torch.exp(3.0 * self.logs)
        return h[:, 0::2], torch.sigmoid(h[:, 1::2] + 2.0) + self.scale_floor


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
        """Return the result for (B,C,H,W) under the condition (B,F,H,W), and the log-determinant (B,)."""
        shift, scale = self.injector(feature)
        z = (z + shift) * scale
        z1, z2 = z[:, : self.split], z[:, self.split :]
        shift2, scale2 = self.affine(torch.cat((z1, feature), 1))
        log_det = scale.log().sum((1, 2, 3)) + scale2.log().sum((1, 2, 3))
        return torch.cat((z1, (z2 + shift2) * scale2), 1), log_det

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`."""
        z1, v2 = v[:, : self.split], v[:, self.split :]
        shift2, scale2 = self.affine(torch.cat((z1, feature), 1))
        shift, scale = self.injector(feature)
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
        """Return the result for (B,C,H,W) under the condition (B,F,H,W), and the log-determinant (B,)."""
        z = self.invconv(self.actnorm(z))
        log_det = (self.actnorm.log_det(z) + self.invconv.log_det(z)).expand(len(z))
        if self.coupling is not None:
            z, coupling_log_det = self.coupling(z, feature)
            log_det = log_det + coupling_log_det
        return z, log_det

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `forward`."""
        log_det = -(self.actnorm.log_det(v) + self.invconv.log_det(v)).expand(len(v))
        if self.coupling is not None:
            v, coupling_log_det = self.coupling.inverse(v, feature)
            log_det = log_det + coupling_log_det
        return self.actnorm.inverse(self.invconv.inverse(v)), log_det


class Flow(nn.Module):
    """The latent normalizing flow: all steps at the latent's resolution, under one condition.

    The flow computes in float32 (or float64) whatever the autocast, because errors in a chain of inverses add up.
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
        return self._run(v, feature, inverse=True)

    def inverse_steps(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Return the inverse as steps (v, feature) -> v that look at most two positions far each."""

        def undone(step: FlowStep) -> Callable[[Tensor, Tensor], Tensor]:
            return lambda v, feature: _in_full_precision(step.inverse, v, feature)[0]

        return [undone(cast(FlowStep, step)) for step in reversed(self.steps)]

    def _run(self, x: Tensor, feature: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        log_det = torch.zeros((), device=x.device)
        steps = [cast(FlowStep, step) for step in self.steps]
        for step in reversed(steps) if inverse else steps:
            x, step_log_det = _in_full_precision(step.inverse if inverse else step, x, feature)
            log_det = log_det + step_log_det
        return x, log_det

    @torch.no_grad()
    def start_from_data(self, z: Tensor, feature: Tensor) -> None:
        """Set every actnorm so that its output on this batch has mean 0 and deviation 1; once, before training."""
        for module in self.modules():
            if isinstance(module, ActNorm):
                module.start_from_data = True
        self(z, feature)


def _in_full_precision(
    step: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, feature: Tensor
) -> tuple[Tensor, Tensor]:
    """Take a step in float32, or in float64 where ``x`` is, whatever the autocast."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        return step(x.to(dtype), feature.to(dtype))


def negative_log_likelihood(v: Tensor, mean: Tensor, log_det: Tensor) -> Tensor:
    """Return bits per latent pixel under the base distribution N(mean, 1): (B,C,h,w), (B,C,h,w), (B,) -> (B,)."""
    log_p = -0.5 * ((v - mean).square() + math.log(2.0 * math.pi)).sum((1, 2, 3))
    return -(log_det + log_p) / (math.log(2.0) * v.shape[2] * v.shape[3])
