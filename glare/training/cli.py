"""``glare train codebook|flow|fusion``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from glare.precision import add_dtype


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
    parser.add_argument(
        "--preset",
        help="tiny (default), small or base; with --init, blocks that the weights lack are added as identities",
    )
    parser.add_argument(
        "--joint", action="store_true", help="stage III: move conditional encoder and flow too"
    )
    parser.add_argument(
        "--perceptual", type=Path, help="state_dict of LPIPS-alex: a term of the loss in stages I and III"
    )
    parser.add_argument(
        "--features",
        help="MODULE:CALLABLE[:ARGUMENT], e.g. detection.hooks:features:yolo26n.pt, features of a frozen detector: "
        "a term of the loss in stage III",
    )
    parser.add_argument(
        "--objective",
        help="MODULE:CALLABLE[:ARGUMENT], e.g. detection.objective:of:yolo26n.pt=photographs, a loss of the network on "
        "images of its own, such as a detector's on labelled ones: a term of the loss in stage III",
    )
    parser.add_argument(
        "--adversarial-after",
        type=int,
        metavar="STEPS",
        help="a patch discriminator in stage I, to which the decoder listens after so many steps (default: none)",
    )
    parser.add_argument("--steps", type=int, default=20_000, help="optimiser steps (default 20000)")
    parser.add_argument(
        "--first-step",
        type=int,
        default=0,
        help="step that the weights in --init have reached in this very stage, where their run goes on from them alone",
    )
    parser.add_argument("--max-minutes", type=float, help="wall-clock limit")
    parser.add_argument("--batch", type=int, default=8, help="crops per step and process (default 8)")
    parser.add_argument("--crop", type=int, default=128, help="side of a crop (default 128)")
    parser.add_argument(
        "--last-crop", type=int, help="side of a crop in the last third of the run, as many pixels a step"
    )
    parser.add_argument("--lr", type=float, help="highest learning rate (default: the stage's)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read images (default 1)")
    what = (
        "to train in; CPUs without AMX or AVX512-BF16 emulate bfloat16: there float32 is three times as fast"
    )
    add_dtype(parser, ("bfloat16", "float32"), what, formerly="--float32")
    parser.add_argument("--checkpoint-minutes", type=float, default=3.0, help="how often (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--terms",
        help="terms of the data, for the model card, which is written after stage III where there is --val "
        "(default: that they hold, and those of the weights in --init)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train by the arguments of the command line."""
    import torch
    from torch import distributed

    from glare import weights
    from glare.config import GLAREConfig
    from glare.data.pairs import Crops
    from glare.evaluate import evaluate_pairs
    from glare.metrics import LPIPS
    from glare.model import GLARE
    from glare.training.card import write_card
    from glare.training.grow import grow
    from glare.training.losses import Restoration, build_by_name
    from glare.training.stages import build_stage

    try:
        from glare.training.loop import Settings, train
    except ModuleNotFoundError as error:
        raise ImportError(f'{error}. Training needs its extra: pip install "glare-torch[train]"') from error

    if args.init is None and args.stage != "codebook":
        raise ValueError(f"Stage {args.stage} starts from the weights of the stage before: give --init.")
    if args.steps < 1:
        raise ValueError(f"Expected argument `steps` to be at least 1 but got {args.steps}.")
    if args.batch < 1:
        raise ValueError(f"Expected argument `batch` to be at least 1 but got {args.batch}.")
    if args.joint and args.stage != "fusion":
        raise ValueError("--joint belongs to stage fusion.")
    if (args.stage == "flow" and args.perceptual) or (
        args.stage != "fusion" and (args.features or args.objective)
    ):
        raise ValueError(
            "--perceptual belongs to the stages codebook and fusion, --features and --objective to fusion."
        )
    if args.adversarial_after is not None and args.stage != "codebook":
        raise ValueError("--adversarial-after belongs to stage codebook.")
    history = weights.history(args.init) if args.init else []
    trained = [entry["stage"].partition(",")[0] for entry in history]
    if args.stage == "fusion" and trained and not {"flow", "fusion"} & set(trained):
        raise ValueError(
            f"Stage fusion starts from weights of stage flow, but {args.init} holds {', '.join(trained)} alone."
        )
    if args.first_step:
        if not trained or trained[-1] != args.stage:
            raise ValueError(
                f"--first-step goes on with weights of stage {args.stage}, but {args.init} holds "
                f"{', '.join(trained) or 'none'}."
            )
        if not 0 < args.first_step < args.steps:
            raise ValueError(
                f"Expected argument `first_step` to be at least 0 and less than {args.steps}, the steps, but got "
                f"{args.first_step}."
            )
    data = Crops(
        args.pairs,
        args.photos,
        args.crop,
        args.steps * args.batch * 1024,
        args.seed,
        args.pairs_share,
        darken=args.stage != "codebook",
    )
    torch.manual_seed(args.seed)
    model = weights.load(args.init) if args.init else GLARE(args.preset or "tiny")
    if args.init and args.preset:
        model = grow(model, GLAREConfig.preset(args.preset))
    settings = Settings(
        out=args.out,
        steps=args.steps,
        name=f"{args.stage}, joint" if args.joint else args.stage,
        data=[_name(folder) for folder in (*args.pairs, *args.photos)],
        command=_command(args),
        history=history,
        batch=args.batch,
        max_minutes=args.max_minutes,
        lr=args.lr,
        workers=args.workers,
        dtype=getattr(torch, args.dtype),
        checkpoint_minutes=args.checkpoint_minutes,
        seed=args.seed,
        last_crop=args.last_crop,
        first_step=args.first_step,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    restoration = Restoration(
        LPIPS(args.perceptual).to(device) if args.perceptual else None,
        build_by_name(args.features) if args.features else None,
    )
    first = "fusion" not in trained
    for name in ("crop", "last_crop"):
        side = getattr(args, name)
        if side is not None and (side < 32 or side % model.config.stride):
            raise ValueError(
                f"Expected argument `{name}` to be a multiple of {model.config.stride} of at least 32 but got {side}."
            )
    stage = build_stage(
        args.stage,
        model,
        restoration,
        args.joint,
        args.adversarial_after,
        from_codebook=first,
        objective=build_by_name(args.objective) if args.objective else None,
    )
    folder = train(stage, data, args.val, settings)
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()  # a process that ends without it may do so with an error
    if args.stage == "fusion" and args.val:
        before = weights.terms(args.init)
        own = args.terms or "those of the data it was trained on"
        terms = own if args.terms or not before else f"{own}, and those of {_path(Path(args.init))}: {before}"
        write_card(
            folder, _path(folder), terms, evaluate_pairs(weights.load(folder), args.val), _name(args.val)
        )
    print(f"Weights: {folder}")
    return 0


def _path(path: Path) -> str:
    """Return a path without the place of this machine that it lies in."""
    return path.name if path.is_absolute() else "/".join(part for part in path.parts if part != "..")


def _name(path: Path) -> str:
    """Return the name of a data set: the last two parts of its path."""
    return "/".join(Path(_path(path)).parts[-2:])


def _command(args: argparse.Namespace) -> str:
    """Return the command with the arguments that make a difference, and the data sets' names for their paths."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    launcher = f"torchrun --nproc-per-node {processes} -m glare train" if processes > 1 else "glare train"
    words = [launcher, args.stage]
    words += [f"--pairs {_name(folder)}" for folder in args.pairs]
    words += [f"--photos {_name(folder)}" for folder in args.photos]
    words += [f"--val {_name(args.val)}"] if args.val else []
    words += [f"--init {_path(Path(args.init))}"] if args.init else []
    words += [f"--preset {args.preset or 'tiny'}"] if args.preset or not args.init else []
    words += ["--joint"] if args.joint else []
    words += [f"--dtype {args.dtype}"] if args.dtype != "bfloat16" else []
    words += [f"--perceptual {args.perceptual.name}"] if args.perceptual else []
    words += [] if args.adversarial_after is None else [f"--adversarial-after {args.adversarial_after}"]
    for option, built in (("--features", args.features), ("--objective", args.objective)):
        if built:
            *names, last = built.split(":")
            words += [f"{option} {':'.join([*names, '='.join(Path(part).name for part in last.split('='))])}"]
    words += [f"--steps {args.steps}"]
    words += [f"--first-step {args.first_step}"] if args.first_step else []
    words += [f"--max-minutes {args.max_minutes:g}"] if args.max_minutes else []
    words += [f"--last-crop {args.last_crop}"] if args.last_crop else []
    words += [f"--lr {args.lr:g}"] if args.lr else []
    words += [
        f"--batch {args.batch} --crop {args.crop} --pairs-share {args.pairs_share:g} --seed {args.seed}"
    ]
    return " ".join([*words, f"--out {_path(args.out)}"])
