"""Measure the network in its straightforward and in its fast form, and the gain of each measure.

The run needs no data and no network: `base` has random weights, for time does not depend on them. Times are medians of
runs in which the variants take turns, so that all of them see the same machine; memory is the highest resident memory
of a process that does nothing else, above what it had when the model was loaded (on a GPU: what torch's tensors took),
of the network's forms with freed memory going back at once, of the transform as it is used.

    python -m experiments.speed
    python -m experiments.speed --only variants scaling
    python -m experiments.speed --device cuda
    python -m experiments.speed --val lol/val --doc docs/speed.md
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from detection.report.provenance import command, versions
from detection.report.tables import markdown
from experiments.speed import plan
from experiments.speed.chain import chain
from experiments.speed.fidelity import fidelity
from experiments.speed.folder import batch_tool
from experiments.speed.gains import gains
from experiments.speed.machine import machine
from experiments.speed.measures import MEASURES
from experiments.speed.profile import profiles
from experiments.speed.scaling import scaling
from experiments.speed.tables import described, insert, plot, told
from experiments.speed.targets import targets
from experiments.speed.variants import variants
from experiments.speed.workers import TRANSFORM
from glare.files import whole_file

PARTS = ("variants", "gains", "profile", "fidelity", "scaling", "batch", "chain")


def calls(only: Sequence[str], models: Sequence[str], runs: int, on_gpu: bool) -> int:
    """Return how many steps the progress bar has."""
    turns = 1 + runs
    of = {
        "variants": turns
        * (sum(3 * len(plan.VARIANT_SIZES[name]) + on_gpu for name in models) + (plan.BASE in models)),
        "gains": turns * len(models) * 2 * len(MEASURES),
        "profile": 2 * len(models),
        "fidelity": len(models),
        "scaling": turns * len(plan.SCALING_SIZES) * len(TRANSFORM),
        "batch": 4,
        "chain": turns * 2,
    }
    return sum(of[part] for part in only)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the run (default: all)"
    )
    models = tuple(dict.fromkeys((plan.BASE, plan.TINY)))
    parser.add_argument(
        "--models", nargs="+", choices=models, default=models, help="in the first four parts (default: both)"
    )
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="the median is of so many (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=40, help="what takes longer is run once (%(default)s)"
    )
    parser.add_argument(
        "--val", type=Path, metavar="PAIRS", help="compare bf16 on these (default: built-in photographs)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="(%(default)s)")
    parser.add_argument(
        "--doc", type=Path, help="a Markdown file to put the tables in, and scaling.svg beside it"
    )
    args = parser.parse_args(arguments)
    if args.runs < 1:
        parser.error("--runs: at least 1")
    typed = command("-m experiments.speed", sys.argv[1:] if arguments is None else arguments)
    try:
        run(args, typed)
    except (ValueError, OSError) as error:
        sys.exit(f"speed: {error}")


def run(args: argparse.Namespace, typed: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    about = machine(args.device)
    tables: dict[str, pd.DataFrame] = {}
    made: dict[str, Callable[[tqdm[Any]], pd.DataFrame]] = {
        "variants": lambda bar: variants(about, args, bar),
        "gains": lambda bar: gains(about, args, bar),
        "profile": lambda bar: profiles(about, args, bar),
        "fidelity": lambda bar: fidelity(args, bar),
        "scaling": lambda bar: scaling(args, bar),
        "batch": lambda bar: batch_tool(args, bar),
        "chain": lambda bar: chain(plan.TINY, args.device, args.runs, bar.update),
    }
    steps = calls(args.only, args.models, args.runs, args.device.startswith("cuda"))
    with tqdm(total=steps, desc="speed", unit="call") as bar:
        for part in PARTS:
            if part in args.only:
                tables[part] = made[part](bar)
    tables["targets"] = targets(about, tables, args.val is not None)

    words = described(about, typed, time.perf_counter() - start)
    blocks = {name: markdown(told(table)) for name, table in tables.items() if len(table)}
    measured_rows = [table.assign(table=name) for name, table in tables.items() if name != "targets"]
    with whole_file(args.out / "speed.csv") as beside:
        pd.concat(measured_rows).to_csv(beside, index=False)
    with whole_file(args.out / "speed.md") as beside:
        text = "\n".join(f"## {name}\n\n{block}\n" for name, block in blocks.items())
        beside.write_text(f"{words}\n\n{text}", encoding="utf-8")
    with whole_file(args.out / "speed.json") as beside:
        facts = {"command": typed, "machine": about, "versions": versions()}
        content = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        beside.write_text(json.dumps({**facts, **content}, indent=1, ensure_ascii=False), encoding="utf-8")
    if "scaling" in tables:
        plot(tables["scaling"], args.out / "scaling.svg")
    if args.doc:
        insert(args.doc, {"machine": words, **blocks})
        if "scaling" in tables:
            shutil.copyfile(args.out / "scaling.svg", args.doc.with_name("scaling.svg"))
    for name, table in tables.items():
        if len(table):
            print(f"\n{name}\n{told(table).to_string(index=False)}")
    print(f"\n{words}\nwritten to {args.out}")
