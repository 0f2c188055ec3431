"""The stages. A stage is a module whose forward takes a batch and returns its loss and its logs.

The official schedules are in the paper's supplement; here all stages share one loop (`glare.training.loop`).
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from glare.condition import Condition
from glare.evaluate import stages_on
from glare.flow import negative_log_likelihood
from glare.metrics import psnr, ssim
from glare.model import GLARE
from glare.training.discriminator import PatchDiscriminator, adaptive_weight
from glare.training.losses import Restoration

Logs = dict[str, Tensor]
Objective = Callable[[Callable[[Tensor], Tensor]], Tensor]
"""A loss of the network itself, on images of its own: from the function that restores (B,3,H,W) to a scalar."""


class Stage(nn.Module):
    """A model and the part of it that is trained."""

    #: Highest learning rate.
    lr: float

    def __init__(self, model: GLARE, restoration: Restoration | None = None) -> None:
        super().__init__()
        self.model = model
        self.restoration = restoration or Restoration()
        model.requires_grad_(False)
        for part in self.trained():
            part.requires_grad_(True)

    @abstractmethod
    def trained(self) -> list[nn.Module]:
        """Return the modules whose parameters are trained."""

    def start(self, low: Tensor, high: Tensor) -> None:
        """Prepare the model on the first batch (B,3,H,W); called once, not when a run is resumed."""

    @abstractmethod
    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Logs]:
        """Return the loss of a batch (B,3,H,W) twice, a scalar, and scalars to log."""

    @abstractmethod
    def pictures(self, low: Tensor, high: Tensor) -> list[Tensor]:
        """Return pictures of the stage's work on a pair (1,3,H,W), step by step: images of the same size."""

    @abstractmethod
    def validate(self, low: Tensor, high: Tensor) -> Logs:
        """Return figures of a whole validation pair (1,3,H,W); the greatest value of the first chooses a checkpoint."""


class CodebookStage(Stage):
    """Stage I: reconstruct normal-light images through the codes."""

    lr = 1e-3
    #: Codes that no latent chose for about this many steps start again at a latent of the batch.
    revive_after = 100
    #: Share of the crops whose latent reaches the decoder unquantised, so that faint detail is learned too.
    not_quantized = 0.5
    #: Share of the discriminator's pull once the decoder listens to it (Esser et al. take 0.8 of it).
    adversarial = 0.8

    def __init__(
        self, model: GLARE, restoration: Restoration | None = None, adversarial_after: int | None = None
    ) -> None:
        super().__init__(model, restoration)
        #: Reads the mean colour of a position's pixels from its latent. Without it the latent first holds grey
        #: structure, the decoder learns to ignore colour, and so nothing ever asks the encoder for colour again.
        self.tint = nn.Conv2d(model.config.latent_channels, 3, 1)
        self.listens_after = adversarial_after or 0
        self.discriminator = None if adversarial_after is None else PatchDiscriminator()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.step: Tensor
        self.register_buffer("unused", torch.zeros(model.config.codes), persistent=True)
        self.unused: Tensor

    def trained(self) -> list[nn.Module]:
        return [self.model.codebook]

    @torch.no_grad()
    def start(self, low: Tensor, high: Tensor) -> None:
        latents = self.model.codebook.encode(high).movedim(1, -1).flatten(0, 2)
        codes = self.model.codebook.quantizer.embedding.weight
        codes.copy_(latents[torch.randint(len(latents), (len(codes),), device=latents.device)])

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Logs]:
        book = self.model.codebook
        latent = book.encode(high).float()
        codes, indices, quantization = book.quantize(latent)
        if self.training:
            plain = torch.rand(len(latent), 1, 1, 1, device=latent.device) < self.not_quantized
            codes = torch.where(plain, latent, codes)
        image = book.decode_codes(codes).float()
        loss, parts = self.restoration(image, high)
        if self.discriminator is not None and torch.is_grad_enabled():
            own = self.discriminator.own_loss(image, high)
            parts["discriminator"] = own.detach()
            # The discriminator learns from the start; the decoder listens once that knows what a photograph is.
            if self.step >= self.listens_after:
                adversarial = self.discriminator.loss_for(image)
                weight = adaptive_weight(loss, adversarial, book.decoder.conv_out.weight)
                parts["adversarial_weight"] = weight
                loss = loss + self.adversarial * weight * adversarial
            loss = loss + own
        tint = F.l1_loss(self.tint(latent), F.avg_pool2d(high, self.model.config.stride))
        parts["tint"] = tint.detach()
        loss = loss + quantization + tint
        if self.training:
            self.step += 1
            self._revive(latent.detach(), indices)
        used = torch.bincount(indices.flatten(), minlength=len(self.unused)).float()
        p = used / used.sum()
        perplexity = torch.exp(-(p * torch.log(p + 1e-10)).sum())
        return loss, {
            **parts,
            "psnr": psnr(image.detach().clamp(0, 1), high).mean(),
            "quantization": quantization.detach(),
            "perplexity": perplexity,
        }

    @torch.no_grad()
    def _revive(self, latent: Tensor, indices: Tensor) -> None:
        self.unused += 1
        self.unused[indices.flatten()] = 0
        together = dist.is_available() and dist.is_initialized()
        if together:  # a code is alive that any process uses
            dist.all_reduce(self.unused, dist.ReduceOp.MIN)
        dead = (self.unused > self.revive_after).nonzero()[:, 0]
        if len(dead):
            latents = latent.movedim(1, -1).flatten(0, 2)
            chosen = latents[torch.randint(len(latents), (len(dead),), device=latents.device)]
            codes = self.model.codebook.quantizer.embedding.weight
            codes[dead] = chosen.to(codes.dtype)
            self.unused[dead] = 0
            if together:
                dist.broadcast(codes.data, 0)

    def pictures(self, low: Tensor, high: Tensor) -> list[Tensor]:
        return [self.model.codebook(high)[0]]

    def validate(self, low: Tensor, high: Tensor) -> Logs:
        image, indices, _ = self.model.codebook(high)
        image = image.float().clamp(0, 1)
        used = torch.tensor(indices.unique().numel() / len(self.unused))
        return {"psnr": psnr(image, high).mean(), "ssim": ssim(image, high).mean(), "codes_used": used}


class FlowStage(Stage):
    """Stage II: the likelihood of the normal-light latent, given the low-light image (equation 4)."""

    lr = 1e-3
    #: How often the reference's own latent is the mean of the base distribution.
    reference_mean = 0.2

    def trained(self) -> list[nn.Module]:
        return [self.model.condition, self.model.flow]

    @torch.no_grad()
    def start(self, low: Tensor, high: Tensor) -> None:
        # The encoder of normal light is a better start for the conditional encoder than random weights.
        self.model.condition.encoder.load_state_dict(self.model.codebook.encoder.state_dict())
        condition = self.model.condition(low)
        self.model.flow.start_from_data(self.model.codebook.encode(high), condition.feature)

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Logs]:
        with torch.no_grad():
            latent = self.model.codebook.encode(high).float()
        condition = self.model.condition(low)
        v, log_det = self.model.flow(latent, condition.feature)
        with_reference = torch.rand(len(v), 1, 1, 1, device=v.device) < self.reference_mean
        mean = torch.where(with_reference, latent, condition.mean.float())
        loss = negative_log_likelihood(v, mean, log_det).mean()
        return loss, {"bits": loss.detach()}

    def pictures(self, low: Tensor, high: Tensor) -> list[Tensor]:
        return [self.model.codebook.decode(self.model.restore_latent(low)[0])[0]]

    def validate(self, low: Tensor, high: Tensor) -> Logs:
        figures, _ = stages_on(self.model, low, high)
        image = self.model.codebook.decode(self.model.restore_latent(low)[0])[0].float().clamp(0, 1)
        found = {"psnr": psnr(image, high).mean()}
        return found | {name.replace(" ", "_"): torch.tensor(value) for name, value in figures.items()}


class FusionStage(Stage):
    """Stage III: the second decoder; with ``joint`` the conditional encoder and the flow move with it."""

    lr = 5e-4
    #: Share of the steps at another fidelity than 1: one third each at 0, at 2 and between, so that the user's knob
    #: leads to pictures at both of its ends.
    other_fidelity = 0.25
    #: Weight of the likelihood that keeps the flow a flow in the joint pass.
    likelihood = 0.001
    #: Weight of the objective, and the share of the steps that have it: so the gradient of a detector's loss, which is
    #: ten to twenty times that of all other terms, is a third of it there, for a quarter of a step's time.
    objective_weight, objective_share = 0.02, 0.25

    def __init__(
        self,
        model: GLARE,
        restoration: Restoration | None = None,
        joint: bool = False,
        from_codebook: bool = False,
        objective: Objective | None = None,
    ) -> None:
        self.joint, self.from_codebook, self.objective = joint, from_codebook, objective
        super().__init__(model, restoration)

    @torch.no_grad()
    def start(self, low: Tensor, high: Tensor) -> None:
        if self.from_codebook:  # whose decoder makes an image of a latent already
            self.model.fusion.decoder.load_state_dict(self.model.codebook.decoder.state_dict())

    def trained(self) -> list[nn.Module]:
        return [self.model.fusion, *([self.model.condition, self.model.flow] if self.joint else [])]

    def forward(self, low: Tensor, high: Tensor) -> tuple[Tensor, Logs]:
        model = self.model
        fidelity = 1.0
        if self.training and random.random() < self.other_fidelity:
            fidelity = random.choice((0.0, 2.0, random.uniform(0.0, 2.0)))
        image, (feature, mean, _) = self._restored(low, fidelity)
        loss, logs = self.restoration(image, high)
        logs["psnr"] = psnr(image.detach().clamp(0, 1), high).mean()
        if self.joint:
            # A quarter of the batch is enough: the flow's steps cost as much as all the rest together.
            some = max(1, len(high) // 4)
            with torch.no_grad():
                reference = model.codebook.encode(high[:some]).float()
            v, log_det = model.flow(reference, feature[:some])
            bits = negative_log_likelihood(v, mean[:some].float(), log_det).mean()
            loss = loss + self.likelihood * bits
            logs["bits"] = bits.detach()
        if self.training and self.objective is not None and random.random() < self.objective_share:

            def restore(night: Tensor) -> Tensor:
                return self._restored(night.to(low.device, memory_format=torch.channels_last), 1.0)[0]

            objective = self.objective(restore)
            loss = loss + self.objective_weight * objective
            logs["objective"] = objective.detach()
        return loss, logs

    def _restored(self, low: Tensor, fidelity: float) -> tuple[Tensor, Condition]:
        """Restore (B,3,H,W); the gradient reaches what is trained."""
        with torch.set_grad_enabled(self.joint and torch.is_grad_enabled()):
            latent, condition = self.model.restore_latent(low)
        with torch.no_grad():
            features = self.model.code_features(latent)
        return self.model.fusion(latent, features, condition.skips, fidelity).float(), condition

    def pictures(self, low: Tensor, high: Tensor) -> list[Tensor]:
        return [self.model.codebook.decode(self.model.restore_latent(low)[0])[0], self.model(low)]

    def validate(self, low: Tensor, high: Tensor) -> Logs:
        image = self.model(low).float().clamp(0, 1)
        return {"psnr": psnr(image, high).mean(), "ssim": ssim(image, high).mean()}


def build_stage(
    name: str,
    model: GLARE,
    restoration: Restoration | None = None,
    joint: bool = False,
    adversarial_after: int | None = None,
    from_codebook: bool = False,
    objective: Objective | None = None,
) -> Stage:
    """Build the stage called ``codebook``, ``flow`` or ``fusion``; the flow does not use ``restoration``."""
    if name == "codebook":
        return CodebookStage(model, restoration, adversarial_after)
    if name == "flow":
        return FlowStage(model)
    if name == "fusion":
        return FusionStage(model, restoration, joint, from_codebook, objective)
    raise ValueError(f"Expected a stage out of codebook, flow, fusion but got {name!r}.")
