"""Variants of the network, each in a process of its own, timed in turns: ``python -m experiments.speed.workers``."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from detection.timing import Cost, timed
from experiments.speed import plan
from experiments.speed.forms import build, dark, in_bf16, load, synchronize
from experiments.speed.plan import Rows, Size
from glare import GLAREEnhance

ROOT = Path(__file__).resolve().parents[2]
TRANSFORM: dict[str, Literal["auto"] | None] = {"transform": "auto", "transform, tile=None": None}


@dataclass(frozen=True)
class Variant:
    """Variant of the network for a worker: ``form`` is one of `build`, or of `TRANSFORM` for `GLAREEnhance`."""

    weights: str
    form: str
    bf16: bool = False


class Worker:
    """Process with one variant of the network, which runs on command.

    Args:
        variant: the network in a form.
        device: the place of the network.
        tidy: whether freed memory goes back to the system at once. What glibc keeps of it differs by a fifth from run
            to run, which no memory can be told by; giving it back takes time, which no time can be told by.
    """

    def __init__(self, variant: Variant, device: str, tidy: bool = False) -> None:
        task = json.dumps({**asdict(variant), "device": device, "warm": plan.WARM_SIZE})
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.speed.workers", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path} | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if tidy else {}),
        )

    def ready(self) -> None:
        """Return when the network has been loaded."""
        self._answer()

    def run(self, batch: int, size: Size) -> Cost:
        """Return time and memory of one call; NaN if the process dies, as it does without enough memory."""
        if self._process.poll() is not None:
            return Cost(math.nan, math.nan)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([batch, *size]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Cost:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
        return Cost(*json.loads(line)) if line else Cost(math.nan, math.nan)

    def close(self) -> None:
        self._process.communicate()


def serve(task: str) -> None:
    """Run a worker's process: one call for each line with a batch, a height and a width."""
    given = json.loads(task)
    device, bf16 = given["device"], given["bf16"]
    if given["form"] in TRANSFORM:
        dtype, tile = torch.bfloat16 if bf16 else None, TRANSFORM[given["form"]]
        enhance = GLAREEnhance(load(given["weights"]), device=device, dtype=dtype, tile=tile)

        def call(batch: int, height: int, width: int) -> Callable[[], object]:
            image = (dark(batch, height, width) * 255).byte()
            return lambda: enhance(image)

    else:
        model = build(given["weights"], given["form"]).to(device)
        load.cache_clear()  # many wait at once, and one model each is enough

        def call(batch: int, height: int, width: int) -> Callable[[], object]:
            image = dark(batch, height, width, device)

            def compute() -> None:
                with torch.inference_mode(), in_bf16(device, bf16):
                    model(image)
                synchronize(device)

            return compute

    call(1, *given["warm"])()  # threads start and kernels are chosen
    start = timed(lambda: synchronize(device))[1].mb
    print(json.dumps([0.0, start]), flush=True)
    for line in sys.stdin:
        cost = timed(call(*json.loads(line)))[1]
        print(json.dumps([cost.ms, cost.mb - start]), flush=True)


def in_turns(
    variants: Sequence[Variant], size: Size, args: argparse.Namespace, bar: tqdm[Any], batch: int = 1
) -> Rows:
    """Measure memory and time of variants on one size, the memory of each in a process of its own.

    A call of more than ``--seconds`` is timed once.
    """
    memory = []
    for variant in variants:
        bar.set_postfix_str(f"{variant.weights} {size[0]}x{size[1]} {variant.form}")
        worker = Worker(variant, args.device, tidy=variant.form not in TRANSFORM)
        try:
            worker.ready()
            memory.append(worker.run(batch, size).mb)
        finally:
            worker.close()
        bar.update()
    workers = [Worker(variant, args.device) for variant in variants]
    times: list[list[float]] = [[] for _ in variants]
    try:
        for worker in workers:
            worker.ready()
        for _ in range(args.runs):
            for worker, so_far in zip(workers, times, strict=True):
                if not so_far or so_far[0] <= 1000 * args.seconds:
                    so_far.append(worker.run(batch, size).ms)
                bar.update()
    finally:
        for worker in workers:
            worker.close()
    return [
        {
            "model": variant.weights,
            "size": f"{size[0]}x{size[1]}",
            "form": variant.form,
            "dtype": "bf16" if variant.bf16 else "float32",
            "batch": batch,
            "ms": statistics.median(so_far),
            "runs": len(so_far),
            "MB": mb,
        }
        for variant, so_far, mb in zip(variants, times, memory, strict=True)
    ]


if __name__ == "__main__":
    serve(sys.argv[1])
