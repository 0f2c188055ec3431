"""The machine: its name, and the rates that the network's rates are compared with."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.speed.forms import synchronize

NATIVE = 1.2  # bf16 counts as native where matrices are multiplied so many times as fast as in float32
SLOW = 5  # GFLOP/s of a small product of matrices below which no large one is tried


@torch.inference_mode()
def machine(device: str) -> dict[str, Any]:
    """Measure the machine: products of matrices in 10^9 operations a second, and copies in 10^9 bytes a second.

    Of a CPU's two libraries the faster: `torch.mm` is MKL's, a 1×1 convolution oneDNN's. (On a GPU convolutions round
    float32 to TF32.)
    """
    on_gpu = device.startswith("cuda")
    elements = 2**28 if on_gpu else 2**26

    def median_seconds(call: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    result: dict[str, Any] = {
        "name": torch.cuda.get_device_name(device) if on_gpu else _cpu_name(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(
            (
                torch.cuda.get_device_properties(device).total_memory
                if on_gpu
                else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            )
            / 1e9,
            1,
        ),
    }

    def gflops(side: int, dtype: torch.dtype, convolution: bool) -> float:
        matrix = torch.rand(side, side, device=device).to(dtype)
        product = torch.empty_like(matrix)
        image = matrix.view(1, side, -1, 32).contiguous(memory_format=torch.channels_last)
        kernels = matrix.view(side, side, 1, 1)
        seconds = median_seconds(
            (lambda: torch.conv2d(image, kernels))
            if convolution
            else (lambda: torch.mm(matrix, matrix, out=product))
        )
        return 2 * side**3 / seconds / 1e9

    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        rates = []
        for convolution in (False,) if on_gpu else (False, True):
            # Without AVX512 MKL's product of 2048×2048 in bf16 takes half a minute.
            rate = math.inf if on_gpu else gflops(256, dtype, convolution)
            rates.append(gflops(8192 if on_gpu else 2048, dtype, convolution) if rate > SLOW else rate)
        result[f"{name}_gflops"] = max(rates)
    source = torch.ones(elements, device=device)
    target = torch.empty_like(source)
    result["gb_per_s"] = 2 * 4 * elements / median_seconds(lambda: target.copy_(source)) / 1e9
    result["native_bf16"] = result["bf16_gflops"] > NATIVE * result["float32_gflops"]
    return result


def _cpu_name() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
