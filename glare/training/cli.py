"""``glare train codebook|flow|fusion``."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_train_parser(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the arguments of ``glare train`` and the function that runs it (``run``)."""
    parser.add_argument("stage", choices=("codebook", "flow", "fusion"), help="stage I, II or III")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; resumed if it is there")
    parser.add_argument("--pairs", type=Path, action="append", default=[], help="folder with low/ and high/")
    parser.add_argument(
        "--photos", type=Path, action="append", default=[], help="photographs, darkened on the fly"
    )
    parser.add_argument(
        "--pairs-share", type=float, default=0.5, help="share of crops from --pairs (default 0.5)"
    )
    parser.add_argument("--val", type=Path, help="folder of pairs by which the best weights are chosen")
    parser.add_argument(
        "--init", help="weights to start from; stages II and III need those of the stage before"
    )
    parser.add_argument("--preset", default="tiny", help="tiny, small or base, without --init (default tiny)")
    parser.add_argument(
        "--joint", action="store_true", help="stage III: move conditional encoder and flow too"
    )
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default 20000)")
    parser.add_argument("--max-minutes", type=float, help="wall-clock limit")
    parser.add_argument("--batch", type=int, default=8, help="crops per step and process (default 8)")
    parser.add_argument("--crop", type=int, default=128, help="side of a crop (default 128)")
    parser.add_argument("--lr", type=float, help="highest learning rate (default: the stage's)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default 1)")
    parser.add_argument("--float32", action="store_true", help="no bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train as ``args`` say."""
    from glare import weights
    from glare.data.pairs import Crops
    from glare.model import GLARE
    from glare.training.loop import Settings, train
    from glare.training.stages import build_stage

    if args.init is None and args.stage != "codebook":
        raise ValueError(f"Stage {args.stage} starts from the weights of the stage before: give --init.")
    if args.joint and args.stage != "fusion":
        raise ValueError("--joint belongs to stage fusion.")
    data = Crops(
        args.pairs, args.photos, args.crop, args.steps * args.batch * 1024, args.seed, args.pairs_share
    )
    model = weights.load(args.init) if args.init else GLARE(args.preset)
    settings = Settings(
        out=args.out,
        steps=args.steps,
        batch=args.batch,
        max_minutes=args.max_minutes,
        lr=args.lr,
        workers=args.workers,
        bf16=not args.float32,
        seed=args.seed,
    )
    print(f"Weights: {train(build_stage(args.stage, model, args.joint), data, args.val, settings)}")
    return 0
