"""The gain of each measure: the optimized network without it, in turns with the optimized network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.speed import plan
from experiments.speed.forms import gflop, load
from experiments.speed.measures import MEASURES
from experiments.speed.plan import Rows
from experiments.speed.workers import Variant, in_turns


def gains(about: Mapping[str, Any], args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Compare the optimized model without one measure with the optimized model, in turns, for each measure.

    They do not all take turns at once, since in so long a time a machine's speed drifts by more than most measures
    gain.
    """
    rows: Rows = []
    for weights in args.models:
        size = plan.GAIN_SIZES[weights]
        for name in MEASURES:
            gain = MEASURES[name]
            forms = [Variant(weights, form, bf16=gain.bf16) for form in ("optimized", name)]
            whole, row = in_turns(forms, size, args, bar)
            saved = gain.saved(load(weights), *size)
            operations = gflop(weights, name, size) - gflop(weights, "optimized", size)
            rows.append(
                {
                    "model": weights,
                    "size": row["size"],
                    "measure": name,
                    "dtype": row["dtype"],
                    "ms": whole["ms"],
                    "ms without": row["ms"],
                    "gain %": 100 * (row["ms"] / whole["ms"] - 1),
                    "predicted %": 100
                    * (operations / about["float32_gflops"] + saved.moved / 1e9 / about["gb_per_s"])
                    / (whole["ms"] / 1000),
                    "GFLOP saved": operations,
                    "GB not moved": saved.moved / 1e9,
                    "MB": whole["MB"],
                    "MB without": row["MB"],
                    "MB not held": saved.held / 1e6,
                }
            )
    return pd.DataFrame(rows)
