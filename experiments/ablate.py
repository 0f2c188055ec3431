"""Measure what each part of GLARE gains: the same short training without it, from the same start, on the same crops.

Stage III is trained anew, jointly with stage II, on the codebook, the conditional encoder and the flow of ``--init``;
stage II anew on its codebook. Every row is one run of ``--steps`` steps: short, but alike. Under ``torchrun`` several
processes share each run.

    python experiments/ablate.py --init glare-tiny --pairs lol/train --photos photos --val lol/val
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from detection.report.tables import write_markdown
from glare import GLARE
from glare.condition import ConditionalEncoder
from glare.data.pairs import Crops
from glare.flow import Flow
from glare.fusion import Fusion, Warp
from glare.precision import add_dtype
from glare.training.loop import Settings, train
from glare.training.stages import FlowStage, FusionStage, Stage


class NoFlow(nn.Module):
    """No flow: the latent is the conditional encoder's mean, and a regression of the latent replaces the likelihood."""

    def forward(self, z: Tensor, feature: Tensor) -> tuple[Tensor, Tensor]:
        # Zero, but not without a gradient, for which several processes would wait.
        return z, 0.0 * feature.sum((1, 2, 3))

    inverse = forward


class NoMixUp(nn.Module):
    """No mix-up: the decoder alone, without the input's detail."""

    def forward(self, skip: Tensor, h: Tensor, fidelity: float) -> Tensor:
        return h


class FromChance(FlowStage):
    """Stage II with a conditional encoder that does not start from the codebook's."""

    @torch.no_grad()
    def start(self, low: Tensor, high: Tensor) -> None:
        chance = {k: v.clone() for k, v in self.model.condition.encoder.state_dict().items()}
        super().start(low, high)
        self.model.condition.encoder.load_state_dict(chance)
        feature = self.model.condition(low).feature
        self.model.flow.start_from_data(self.model.codebook.encode(high), feature)


def no_flow(stage: FusionStage) -> None:
    stage.model.flow = NoFlow()  # type: ignore[assignment]


def no_codebook_features(stage: FusionStage) -> None:
    stage.model.fusion.warp = nn.ModuleDict()


def no_mix_up(stage: FusionStage) -> None:
    fusion = stage.model.fusion
    fusion.mix = nn.ModuleDict({level: NoMixUp() for level in fusion.mix})


def no_warp(stage: FusionStage) -> None:
    for warp in stage.model.fusion.warp.values():
        assert isinstance(warp, Warp)
        warp.offsets.requires_grad_(False)  # zero for good: an ordinary convolution


def no_blocks(stage: FusionStage) -> None:
    stage.model.fusion.refine = nn.Identity()  # type: ignore[assignment]


def no_detail_loss(stage: FusionStage) -> None:
    stage.restoration.detail_weight = 0.0


def stage_three(leave_out: Callable[[FusionStage], None] = lambda stage: None) -> Callable[[GLARE], Stage]:
    def build(model: GLARE) -> Stage:
        model.fusion = Fusion(model.config)
        stage = FusionStage(model, joint=True, from_codebook=True)
        leave_out(stage)
        return stage

    return build


def stage_two(stage: type[FlowStage]) -> Callable[[GLARE], Stage]:
    def build(model: GLARE) -> Stage:
        model.condition, model.flow = ConditionalEncoder(model.config), Flow(model.config)
        return stage(model)

    return build


VARIANTS: dict[str, dict[str, Callable[[GLARE], Stage]]] = {
    "fusion": {
        "all of it": stage_three(),
        "no flow": stage_three(no_flow),
        "no codebook features": stage_three(no_codebook_features),
        "no mix-up": stage_three(no_mix_up),
        "no warp": stage_three(no_warp),
        "no blocks behind the mix-up": stage_three(no_blocks),
        "no loss on detail": stage_three(no_detail_loss),
    },
    "flow": {
        "encoder started from the codebook's": stage_two(FlowStage),
        "encoder started from chance": stage_two(FromChance),
    },
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init", default="glare-tiny", help="weights to start from (default: %(default)s)")
    parser.add_argument("--pairs", type=Path, action="append", default=[], help="folder with low/ and high/")
    parser.add_argument("--photos", type=Path, action="append", default=[], help="photographs, darkened")
    parser.add_argument("--val", type=Path, required=True, help="folder of pairs to measure on")
    parser.add_argument("--steps", type=int, default=400, help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--crop", type=int, default=128, help="(default: %(default)s)")
    add_dtype(parser, ("bfloat16", "float32"), "to train in", formerly="--float32")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    args = parser.parse_args(arguments)
    processes, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    data = Crops(args.pairs, args.photos, args.crop, args.steps * args.batch * processes)
    for kind, variants in VARIANTS.items():
        figures = []
        for name, build in variants.items():
            torch.manual_seed(0)
            stage = build(GLARE.from_pretrained(args.init))
            out = args.out / f"{kind}, {name}".replace(" ", "_").replace(",", "").replace("'", "")
            settings = Settings(out, args.steps, name, batch=args.batch, dtype=getattr(torch, args.dtype))
            train(stage, data, args.val, settings)
            # The loop leaves the weights of the last step; what it validates is their average.
            log = pd.read_json(out / "log.jsonl", lines=True)
            figures.append(log.filter(like="val/").dropna().iloc[-1].rename(name))
        if rank == 0:
            table = pd.DataFrame(figures).rename(columns=lambda key: key.removeprefix("val/")).round(3)
            table = table.rename_axis("").reset_index()
            print(table.to_string(index=False))
            note = f"{args.steps} steps of {args.batch * processes} crops from `{args.init}`, one run each."
            write_markdown(table, [note], args.out / f"{kind}.md")


if __name__ == "__main__":
    main()
