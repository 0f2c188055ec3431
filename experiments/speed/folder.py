"""``glare enhance`` on a folder, against the network alone on the same images."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image
from tqdm import tqdm

from experiments.speed import plan
from experiments.speed.forms import dark, load
from glare import GLAREEnhance
from glare.batch import enhance_files, find_jobs


def batch_tool(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Measure ``glare enhance`` on a folder of equal images, in turns with the network alone on the same images."""
    number, size = plan.FOLDER
    bar.set_postfix_str(f"a folder of {number} images")
    enhance = GLAREEnhance(load(plan.TINY), device=args.device)
    image = (dark(1, *size) * 255).byte()
    enhance(image)
    alone, tool = [], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        for i in range(number):
            Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(folder / f"{i:02}.png")
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(number):
                enhance(image)
            alone.append(time.perf_counter() - start)
            bar.update()
            start = time.perf_counter()
            if failed := enhance_files(enhance, find_jobs([str(folder)], Path(place) / "out")):
                raise RuntimeError(failed[0])
            tool.append(time.perf_counter() - start)
            shutil.rmtree(Path(place) / "out")
            bar.update()
    seconds = [statistics.mean(alone), statistics.mean(tool)]
    return pd.DataFrame(
        [
            {
                "images": number,
                "size": f"{size[0]}x{size[1]}",
                "network alone, s": seconds[0],
                "glare enhance, s": seconds[1],
                "overhead %": 100 * (seconds[1] / seconds[0] - 1),
            }
        ]
    )
