"""Each form of both models: time, memory, and its share of the machine's rate."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.speed import plan
from experiments.speed.forms import gflop
from experiments.speed.plan import Rows
from experiments.speed.workers import Variant, in_turns


def variants(about: Mapping[str, Any], args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Measure each form of both models; the share is that of products of matrices in the row's own number format."""
    rows: Rows = []
    for weights in args.models:
        forms = [
            Variant(weights, "straightforward"),
            Variant(weights, "optimized"),
            Variant(weights, "optimized", bf16=True),
        ]
        for size in plan.VARIANT_SIZES[weights]:
            group = in_turns(forms, size, args, bar)
            rows += [{**row, "ratio": group[0]["ms"] / row["ms"]} for row in group]
    if plan.BASE in args.models and plan.RATIO_SIZE not in plan.VARIANT_SIZES[plan.BASE]:
        rows += in_turns([Variant(plan.BASE, "optimized")], plan.RATIO_SIZE, args, bar)
    if args.device.startswith("cuda"):
        for weights in args.models:
            rows += in_turns([Variant(weights, "optimized", bf16=True)], plan.RATIO_SIZE, args, bar, 16)
    for row in rows:
        height, width = map(int, row["size"].split("x"))
        row["GFLOP"] = row["batch"] * gflop(row["model"], row["form"], (height, width))
        row["GFLOP/s"] = row["GFLOP"] / row["ms"] * 1000
        row["share"] = row["GFLOP/s"] / about[f"{row['dtype']}_gflops"]
        row["images/s"] = 1000 * row["batch"] / row["ms"]
    return pd.DataFrame(rows)
