"""One call of each optimized model: its time by the network's parts, and by the kinds of operations."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from detection.metrics.complexity import flop_counter
from experiments.speed import plan
from experiments.speed.forms import build, dark, synchronize
from experiments.speed.plan import Rows
from glare import GLARE

#: Kinds of operations, by the beginnings of torch's names.
KINDS = {
    "convolution": (
        "aten::mkldnn_convolution",
        "aten::_convolution",
        "aten::_slow_conv2d",
        "aten::cudnn_conv",
    ),
    "attention": ("aten::_scaled_dot_product", "aten::bmm", "aten::_softmax"),
    "normalisation": ("aten::native_group_norm", "aten::native_batch_norm", "aten::var_mean"),
    "activation": ("aten::silu", "aten::sigmoid", "aten::relu", "aten::clamp_min"),
    "sampling": ("aten::grid_sampler", "torchvision::deform_conv2d"),
    "code search": ("aten::addmm", "aten::min", "aten::argmin"),
    "copies": ("aten::copy_", "aten::cat", "aten::constant_pad", "aten::fill_", "aten::index"),
}


class Clock:
    """Share of each part in a growing number; parts within parts are not counted twice."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.spent: dict[str, float] = defaultdict(float)
        self._stack: list[str] = []
        self._last = 0.0

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._book()
        self._stack.append(part)
        try:
            yield
        finally:
            self._book()
            self._stack.pop()

    def _book(self) -> None:
        now = self.read()
        if self._stack:
            self.spent[self._stack[-1]] += now - self._last
        self._last = now


@contextmanager
def watched(model: GLARE, clock: Clock) -> Iterator[None]:
    """Book the calls of the network's parts to these parts."""
    parts = [
        (model.condition, "forward", "conditional encoder"),
        (model.flow, "inverse", "flow inverse"),
        (model.codebook.quantizer, "forward", "code search"),
        (model.codebook, "codes", "code features"),
        *((model.codebook.decoder, f"to_{size}", "code features") for size in ("quarter", "half", "full")),
        (model.fusion, "consume", "second decoder"),
        *([(model.fusion.refine, "forward", "refinement")] if model.config.fusion_blocks else []),
        *((warp, "forward", "warp") for warp in model.fusion.warp.values()),
    ]
    for module, method, part in parts:
        inner = getattr(module, method)

        def timed(*given: Any, inner: Callable[..., Any] = inner, part: str = part) -> Any:
            with clock(part):
                return inner(*given)

        setattr(module, method, timed)
    try:
        yield
    finally:
        for module, method, _ in parts:
            delattr(module, method)


def profiles(about: Mapping[str, Any], args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Profile one call of each optimized model by the network's parts and by the kinds of operations."""
    rows: Rows = []
    for weights in args.models:
        size = plan.PROFILE_SIZES[weights]
        bar.set_postfix_str(f"{weights} {size[0]}x{size[1]} profile")
        model = build(weights, "optimized")
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), flop_counter() as counter:
            operations = Clock(lambda c=counter: c.get_total_flops() / 1e9)  # type: ignore[misc]
            with watched(model, operations), operations("rest"):
                model(torch.rand(1, 3, *size))

        def now() -> float:
            synchronize(args.device)
            return 1000 * time.perf_counter()

        clock, image = Clock(now), dark(1, *size, args.device)
        model = model.to(args.device)
        with torch.inference_mode():
            model(dark(1, *plan.WARM_SIZE, args.device))
            if weights == plan.TINY:
                model(image)
            with watched(model, clock), clock("rest"):
                model(image)
        bar.update()
        on_gpu = args.device.startswith("cuda")
        activities = {ProfilerActivity.CPU} | ({ProfilerActivity.CUDA} if on_gpu else set())
        with torch.inference_mode(), profile(activities=activities) as profiler:
            model(image)
            synchronize(args.device)
        bar.update()
        by_kind: dict[str, float] = dict.fromkeys([*KINDS, "other"], 0.0)
        for event in profiler.key_averages():
            kind = next((k for k, starts in KINDS.items() if event.key.startswith(starts)), "other")
            by_kind[kind] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000
        name = {"model": weights, "size": f"{size[0]}x{size[1]}"}
        for by, spent in (("part", clock.spent), ("kind", by_kind)):
            for what, ms in sorted(spent.items(), key=lambda item: -item[1]):
                row = {**name, "by": by, "what": what, "ms": ms, "% of time": 100 * ms / sum(spent.values())}
                if by == "part":
                    count = operations.spent[what]
                    row |= {"GFLOP": count, "GFLOP/s": count / ms * 1000}
                    row["share"] = row["GFLOP/s"] / about["float32_gflops"]
                rows.append(row)
        del model
    return pd.DataFrame(rows)
