"""Make ``curves.svg``: the loss and the validation of runs of `glare train`, one after the other.

python docs/curves.py runs/joint runs/large docs/curves.svg
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

#: Steps over which the loss is averaged: single crops differ far more than what is learned in between.
WINDOW = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, in their order")
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    columns = {"loss": "loss", "val/psnr": "PSNR on val, dB", "val/ssim": "SSIM on val"}
    figure, axes = plt.subplots(1, len(columns), figsize=(11, 3), layout="constrained")
    start = 0
    for run in args.runs:
        log = pd.read_json(run / "log.jsonl", lines=True)
        for axis, (column, name) in zip(axes, columns.items(), strict=True):
            seen = log[["step", column]].dropna()
            values = seen[column].rolling(WINDOW, min_periods=1).mean() if column == "loss" else seen[column]
            axis.plot(start + seen["step"], values, marker=None if column == "loss" else "o", label=run.name)
            axis.set(xlabel="step", title=name)
            axis.grid(alpha=0.3)
        start += int(log["step"].max())
    axes[0].legend()
    figure.savefig(args.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
