"""Targets, and whether they were reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from experiments.speed import plan
from experiments.speed.plan import Rows


def targets(about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], by_val: bool) -> pd.DataFrame:
    """Judge each target by the tables."""
    rows: Rows = []

    def judge(what: str, wanted: str, value: float, reached: bool, unit: str = "") -> None:
        rows.append(
            {
                "target": what,
                "wanted": wanted,
                "measured": f"{value:.2f}{unit}",
                "hit or miss": "hit" if reached else "miss",
            }
        )

    if "variants" in tables:
        table = tables["variants"]
        table = table[table["batch"] == 1].set_index(["model", "size", "form", "dtype"])
        spent: dict[Any, float] = table["ms"].to_dict()
        held: dict[Any, float] = table["MB"].to_dict()
        plain, fast = ("straightforward", "float32"), ("optimized", "float32")
        size = f"{plan.RATIO_SIZE[0]}x{plan.RATIO_SIZE[1]}"
        by_model = set(table.index.get_level_values("model"))
        if plan.BASE in by_model:
            sizes = [f"{h}x{w}" for h, w in plan.VARIANT_SIZES[plan.BASE]]
            for one, least in zip(sizes, (1.2, 1.5), strict=False):
                value = spent[plan.BASE, one, *plain] / spent[plan.BASE, one, *fast]
                judge(f"base float32 at {one}, times as fast", f"at least {least}", value, value >= least)
            value = 100 * held[plan.BASE, sizes[-1], *fast] / held[plan.BASE, sizes[-1], *plain]
            judge(f"its peak memory at {sizes[-1]}", "at most 40 %", value, value <= 40, " %")
            for one in sizes:
                ms = spent[plan.BASE, one, "optimized", "bf16"]
                value = spent[plan.BASE, one, *plain] / ms
                judge(f"base bf16 at {one}, times as fast", "at least 2", value, value >= 2)
                value = spent[plan.BASE, one, *fast] / ms
                judge("the same, against optimized float32", "at least 2", value, value >= 2)
        if plan.TINY in by_model:
            dtype = "bf16" if about["native_bf16"] else "float32"
            value = spent[plan.TINY, size, "optimized", dtype] / 1000
            judge(f"glare-tiny at {size} ({dtype})", "under 1.5 s", value, value < 1.5, " s")
        if {plan.BASE, plan.TINY} <= by_model:
            value = spent[plan.BASE, size, *fast] / spent[plan.TINY, size, *fast]
            judge(f"glare-tiny at {size} against base, times as fast", "at least 25", value, value >= 25)
    if "fidelity" in tables:
        value = tables["fidelity"]["PSNR, lowest"].min()
        of = "val" if by_val else "the built-in photographs"
        judge(
            f"glare-tiny, bf16 against float32 on {of}, lowest", "at least 40 dB", value, value >= 40, " dB"
        )
    if "scaling" in tables:
        table = tables["scaling"]
        table = table[table["form"] == "transform"]
        per = table["ms per megapixel"]
        value = per.max() / per.min()
        judge("glare-tiny, dearest megapixel against cheapest", "linear: at most 1.5", value, value <= 1.5)
        value = table["MB"].iloc[-1] * 1e6 / 2**30
        judge(f"its peak memory at {table['size'].iloc[-1]}", "under 4 GiB", value, value < 4, " GiB")
    if "batch" in tables:
        value = tables["batch"]["overhead %"].iloc[0]
        judge("glare enhance over the network alone", "at most 10 %", value, value <= 10, " %")
    return pd.DataFrame(rows)
