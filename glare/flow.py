"""Stage II: an invertible latent normalizing flow, conditioned on the low-light image (GLARE, section 3.2).

The conditional encoder (`glare.condition`) turns the low-light image into a feature that drives the flow and into the
mean of the flow's Gaussian base distribution. Forward, the flow carries the latent of the normal-light image to that
Gaussian (training); backward, it carries the mean to where normal-light latents live (use).

The steps are those of Glow (Kingma & Dhariwal, 2018) with the conditional affine couplings of SRFlow (Lugmayr et
al., ECCV 2020). What takes the condition (`Coupling`, `FlowStep`, `Flow`) returns, forward and inverse, the result
and the log-determinant of its Jacobian, per sample (B,); the two cancel. That of an `ActNorm` or an `InvertibleConv`
depends on its weights alone: ``log_det`` tells it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.config import GLAREConfig

#: Couplings whose networks look at the condition in one grouped convolution: all, without which a GPU is idle, but on
#: a CPU one, whose results stay in the cache.
COUPLINGS_AT_ONCE = {"cpu": 1}


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
        return _shift_and_scale(self.conv3(h) * torch.exp(3.0 * self.logs), self.scale_floor)

    def folded(self) -> list[Tensor]:
        """Weight and bias of each of the three convolutions, with the norm or the factor that follows it."""
        result: list[Tensor] = []
        for conv, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            scale = norm.logs.exp().flatten()
            result += [conv.weight * scale.view(-1, 1, 1, 1), norm.bias.flatten() * scale]
        scale = torch.exp(3.0 * self.logs).flatten()
        assert self.conv3.bias is not None
        return [*result, self.conv3.weight * scale.view(-1, 1, 1, 1), self.conv3.bias * scale]


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


class Folded(NamedTuple):
    """What a flow's inverse without gradients computes with: K couplings, C channels, in the inverse's order.

    What lies between two couplings is one affine map of the channels; norms and factors are part of the convolutions.
    Of all that the two networks of a coupling do, only their look at z1 has to wait for the coupling before: the first
    convolution of both on the condition is one. Weights are as a convolution of K groups has them.
    """

    matrices: Tensor  #: (K·C,C,1,1), before each coupling
    offsets: Tensor  #: (K·C,)
    first: (
        Tensor  #: (K·2·hidden,F,3,3), on the condition: the injector's first convolution, then the affine's
    )
    first_bias: Tensor
    of_z1: Tensor  #: (K·hidden,split,3,3), what the affine's first convolution makes of z1
    second: Tensor  #: the other convolutions of the injectors
    second_bias: Tensor
    third: Tensor
    third_bias: Tensor
    affine_second: Tensor  #: and of the affines
    affine_second_bias: Tensor
    affine_third: Tensor
    affine_third_bias: Tensor
    matrix: Tensor  #: (C,C,1,1), after the last coupling
    offset: Tensor  #: (C,)
    log_det: Tensor  #: of all matrices, per position, ()

    def parts(self, couplings: int) -> list[Folded]:
        """The same in parts of as many couplings each."""
        number = len(self.matrices) // len(self.matrix) // couplings
        of_couplings = zip(*(weight.chunk(number) for weight in self[:-3]), strict=True)
        return [Folded._make((*part, *self[-3:])) for part in of_couplings]


def _inverse_folded(f: Folded, v: Tensor, feature: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """`Flow.inverse` by folded weights."""
    with torch.autocast(v.device.type, enabled=False):
        v, feature = v.to(f.first.dtype), feature.to(f.first.dtype)
        log_det = (f.log_det * (v.shape[2] * v.shape[3])).expand(len(v))
        at_once = COUPLINGS_AT_ONCE.get(v.device.type, len(f.matrices) // len(f.matrix))
        for part in f.parts(at_once):
            v, part_log_det = _inverse_couplings(part, v, feature, floor)
            log_det = log_det + part_log_det
        return F.conv2d(v, f.matrix, f.offset), log_det


def _inverse_couplings(f: Folded, v: Tensor, feature: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """All but the last matrix: (B,C,h,w) under the condition (B,F,h,w) -> the result and its log-determinant (B,)."""
    n = len(f.matrices) // len(f.matrix)
    # What the condition alone determines: the affine's share of its first convolution, the injector's shift and scale.
    h = torch.unflatten(F.conv2d(feature, f.first, f.first_bias, padding=1), 1, (n, 2, -1))
    injectors = F.conv2d(h[:, :, 0].flatten(1, 2).relu(), f.second, f.second_bias, groups=n).relu_()
    injectors = F.conv2d(injectors, f.third, f.third_bias, padding=1, groups=n)
    log_det = v.new_zeros(len(v))
    for i, (one, injector) in enumerate(zip(f.parts(1), injectors.chunk(n, 1), strict=True)):
        shift, scale = _shift_and_scale(injector, floor)
        v = F.conv2d(v, one.matrices, one.offsets)
        z1, v2 = v.tensor_split((one.of_z1.shape[1],), 1)
        affine = (h[:, i, 1] + F.conv2d(z1, one.of_z1, padding=1)).relu_()
        affine = F.conv2d(affine, one.affine_second, one.affine_second_bias).relu_()
        affine = F.conv2d(affine, one.affine_third, one.affine_third_bias, padding=1)
        shift2, scale2 = _shift_and_scale(affine, floor)
        v = torch.cat((z1, v2 / scale2 - shift2), 1) / scale - shift
        log_det = log_det - scale.log().sum((1, 2, 3)) - scale2.log().sum((1, 2, 3))
    return v, log_det


def _inverse_steps(f: Folded, floor: float) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """See `Flow.inverse_steps`."""

    parts = f.parts(1)

    def step_of(part: Folded) -> Callable[[Tensor, Tensor], Tensor]:
        def step(v: Tensor, feature: Tensor) -> Tensor:
            with torch.autocast(v.device.type, enabled=False):
                v = _inverse_couplings(part, v.to(f.first.dtype), feature.to(f.first.dtype), floor)[0]
                return F.conv2d(v, f.matrix, f.offset) if part is parts[-1] else v

        return step

    return [step_of(part) for part in parts]


def _shift_and_scale(h: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """The result of a coupling network's last convolution (B,2·out,H,W) -> shift and scale."""
    return h[:, 0::2], torch.sigmoid(h[:, 1::2] + 2.0) + floor


class Flow(nn.Module):
    """The latent normalizing flow: all steps at the latent's resolution, under one condition.

    It computes in float32 (or float64) whatever the autocast: errors in a chain of inverses add up.
    """

    def __init__(self, config: GLAREConfig) -> None:
        super().__init__()
        self.scale_floor = config.flow_scale_floor
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
        return _inverse_folded(self.fold(), v, feature, self.scale_floor)

    def inverse_steps(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """The inverse, without gradient, as steps (v, feature) -> v that look at most two positions far each."""
        return _inverse_steps(self.fold(), self.scale_floor)

    @torch.no_grad()
    def fold(self) -> Folded:
        """The inverse's weights, folded: see `Folded`. The matrices are inverted and multiplied in float64."""
        steps = [cast(FlowStep, step) for step in reversed(self.steps)]
        back = torch.linalg.inv(torch.stack([step.invconv.weight for step in steps]).double())
        matrix = torch.eye(back.shape[1], dtype=torch.float64, device=back.device)
        offset = matrix.new_zeros(len(matrix))
        maps, couplings = [], []
        for step, inverted in zip(steps, back, strict=True):
            if step.coupling is not None:
                couplings.append(step.coupling)
                maps.append((matrix, offset))
                matrix, offset = torch.eye(len(matrix)).to(matrix), torch.zeros_like(offset)
            inverted = inverted * torch.exp(-step.actnorm.logs.double().view(-1, 1))
            matrix, offset = inverted @ matrix, inverted @ offset - step.actnorm.bias.double().flatten()
        log_det = -sum(
            step.actnorm.logs.sum() + torch.linalg.slogdet(step.invconv.weight)[1] for step in steps
        )
        split, dtype = couplings[0].split, steps[0].invconv.weight.dtype
        injectors, affines = (
            [torch.stack(tensors) for tensors in zip(*networks, strict=True)]
            for networks in zip(*((c.injector.folded(), c.affine.folded()) for c in couplings), strict=True)
        )
        weights = (
            torch.cat((injectors[0], affines[0][:, :, split:]), 1),
            torch.cat((injectors[1], affines[1]), 1),
            affines[0][:, :, :split],
            *injectors[2:],
            *affines[2:],
        )
        return Folded._make(
            (
                torch.cat([matrix for matrix, _ in maps])[..., None, None].to(dtype),
                torch.cat([offset for _, offset in maps]).to(dtype),
                *(weight.flatten(0, 1) for weight in weights),
                matrix[..., None, None].to(dtype),
                offset.to(dtype),
                cast(Tensor, log_det),
            )
        )

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

    @torch.no_grad()
    def start_from_data(self, z: Tensor, feature: Tensor) -> None:
        """Set every actnorm so that its output on this batch has mean 0 and deviation 1; once, before training."""
        for module in self.modules():
            if isinstance(module, ActNorm):
                module.start_from_data = True
        self(z, feature)


class FrozenFlow(nn.Module):
    """A flow's inverse alone, folded once and for all: for use, not for training."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.scale_floor = flow.scale_floor
        for name, tensor in flow.fold()._asdict().items():
            self.register_buffer(name, tensor)

    def fold(self) -> Folded:
        """See `Flow.fold`."""
        return Folded(*(self.get_buffer(name) for name in Folded._fields))

    def inverse(self, v: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        """See `Flow.inverse`."""
        return _inverse_folded(self.fold(), v, feature, self.scale_floor)

    def inverse_steps(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """See `Flow.inverse_steps`."""
        return _inverse_steps(self.fold(), self.scale_floor)


def negative_log_likelihood(v: Tensor, mean: Tensor, log_det: Tensor) -> Tensor:
    """Bits per latent pixel under the base distribution N(mean, 1): (B,C,h,w), (B,C,h,w), (B,) -> (B,)."""
    log_p = -0.5 * ((v - mean).square() + math.log(2.0 * math.pi)).sum((1, 2, 3))
    return -(log_det + log_p) / (math.log(2.0) * v.shape[2] * v.shape[3])
