"""Measure what runtimes take for the network's ONNX file, and how far each is from torch.

    glare export --onnx glare.onnx
    python experiments/runtimes.py glare.onnx

All see the same picture in turns, in one process, with one thread each, so that what else the machine does meets them
alike. ONNX Runtime comes first, and the last column compares with it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pandas as pd
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from detection.report.tables import markdown
from glare import GLARE

Pixels = NDArray[np.float32]
Run = Callable[[Pixels], Pixels]


def runtimes(file: Path) -> dict[str, Run]:
    """Return what each runtime makes of (1,3,H,W) float32 in [0,1], by the runtime's name and precision."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    core = openvino.Core()
    one = {"INFERENCE_NUM_THREADS": 1}
    exact = core.compile_model(str(file), "CPU", one | {"INFERENCE_PRECISION_HINT": "f32"})
    default = core.compile_model(str(file), "CPU", one)
    version = openvino.__version__.partition("-")[0]
    return {
        f"ONNX Runtime {onnxruntime.__version__}, float32": lambda low: np.asarray(
            session.run(None, {"low": low})[0]
        ),
        f"OpenVINO {version}, float32": lambda low: np.asarray(exact({"low": low})[0]),
        f"OpenVINO {version}, as it chooses": lambda low: np.asarray(default({"low": low})[0]),
    }


def measure(file: Path, model: GLARE, size: tuple[int, int], runs: int) -> pd.DataFrame:
    """Return a row for each runtime: median time, largest difference from torch, and time over the first one's."""
    low = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) / 8
    with torch.inference_mode():
        expected = model(low).clamp(0, 1).numpy()
    forms = runtimes(file)
    apart = {name: float(np.abs(run(low.numpy()) - expected).max()) for name, run in forms.items()}
    spent: dict[str, list[float]] = {name: [] for name in forms}
    for _ in tqdm(range(runs), unit="round", leave=False):
        for name, run in forms.items():
            start = time.perf_counter()
            run(low.numpy())
            spent[name].append(time.perf_counter() - start)
    first, *_ = spent.values()
    return pd.DataFrame(
        {
            "runtime": name,
            "size": f"{size[0]}x{size[1]}",
            "ms": 1000 * statistics.median(times),
            "largest difference": apart[name],
            "times the time": statistics.median(a / b for a, b in zip(times, first, strict=True)),
        }
        for name, times in spent.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("onnx", type=Path, help="what glare export has written")
    parser.add_argument("--weights", default="glare-tiny", help="those that were exported (%(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 256), help="height, width (256 256)")
    parser.add_argument("--runs", type=int, default=7, help="(%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = GLARE.from_pretrained(args.weights).optimize()
    table = measure(args.onnx, model, tuple(args.size), args.runs)
    table["largest difference"] = table["largest difference"].map("{:.1e}".format)
    print(markdown(table))


if __name__ == "__main__":
    main()
