"""`GLAREEnhance` on images of all sizes."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import pandas as pd
from tqdm import tqdm

from experiments.speed import plan
from experiments.speed.plan import Rows
from experiments.speed.workers import TRANSFORM, Variant, in_turns


def scaling(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Measure `GLAREEnhance` with its defaults and without tiles, from small images to those of a camera.

    The forms do not take turns, since a call that fills gigabytes which another process has just given back waits for
    the system.
    """
    rows: Rows = []
    for form, size in itertools.product(TRANSFORM, plan.SCALING_SIZES):
        (row,) = in_turns([Variant(plan.TINY, form)], size, args, bar)
        megapixels = size[0] * size[1] / 1e6
        rows.append({**row, "megapixels": megapixels, "ms per megapixel": row["ms"] / megapixels})
    return pd.DataFrame(rows)
