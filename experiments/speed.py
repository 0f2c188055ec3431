"""Where the milliseconds go: the network in its straightforward and in its fast form, and what each measure gains.

Needs no data and no network: `base` has random weights, for time does not depend on them. Times are medians of runs
in which the variants take turns, so that all of them see the same machine; memory is the highest resident memory of
a process that does nothing else, above what it had when the model was loaded (on a GPU: what torch's tensors took), of
the network's forms with freed memory going back at once, of the transform as it is used.

    python experiments/speed.py
    python experiments/speed.py --only variants scaling
    python experiments/speed.py --device cuda
    python experiments/speed.py --val lol/val --doc docs/speed.md
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from chain import chain
from detection import darken, sample_set
from detection.metrics.complexity import flop_counter
from detection.metrics.image_quality import as_tensor
from detection.report.provenance import command, versions
from detection.report.tables import markdown
from detection.timing import Cost, timed
from gains import GAINS
from glare import GLARE, GLAREEnhance
from glare.batch import enhance_files, find_jobs
from glare.config import PRESETS
from glare.data.pairs import list_pairs, read
from glare.files import whole_file
from glare.image import pad, to_float
from glare.metrics import psnr
from speed_tables import described, insert, plot, told
from straightforward import straightforward

ROOT = Path(__file__).resolve().parents[1]
BASE, TINY = "base", "glare-tiny"
VARIANT_SIZES = {BASE: [(256, 256), (420, 620)], TINY: [(256, 256), (640, 640)]}
RATIO_SIZE = (640, 640)  # at which the two models are compared
GAIN_SIZES = {BASE: (256, 256), TINY: (640, 640)}
PROFILE_SIZES = {BASE: (420, 620), TINY: (640, 640)}
SCALING_SIZES = [(500, 500), (1000, 1000), (2000, 2000), (3000, 4000)]
TRANSFORM: dict[str, Literal["auto"] | None] = {"transform": "auto", "transform, tile=None": None}
WARM_SIZE = (64, 64)
CROP = 128  # of photographs, for the latents of `base`
FOLDER = (24, (400, 600))  # images of the batch tool, and their size
NATIVE = 1.2  # bf16 counts as native where matrices are multiplied so many times as fast as in float32
SLOW = 5  # GFLOP/s of a small product of matrices below which no large one is tried
PARTS = ("variants", "gains", "profile", "fidelity", "scaling", "batch", "chain")

Size = tuple[int, int]
Rows = list[dict[str, Any]]


# --- The network in its forms -----------------------------------------------------------------------------------------


@lru_cache
def load(weights: str) -> GLARE:
    """A preset with random weights, or weights by name."""
    if weights in PRESETS:
        torch.manual_seed(0)
        return GLARE(weights).eval()
    return GLARE.from_pretrained(weights).eval()


@lru_cache(maxsize=1)
def build(weights: str, form: str) -> GLARE:
    """A model in a form: ``straightforward``, ``optimized``, or optimized but for one of `GAINS`."""
    if form == "straightforward":
        return straightforward(load(weights))
    return GAINS[form].without(load(weights)) if form in GAINS else load(weights).optimize()


def dark(batch: int, height: int, width: int, device: str = "cpu") -> Tensor:
    """An image of noise, (B,3,H,W) in [0,0.2]."""
    generator = torch.Generator().manual_seed(0)
    return (0.2 * torch.rand(batch, 3, height, width, generator=generator)).to(device)


def in_bf16(device: str, wanted: bool = True) -> torch.autocast:
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=wanted)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@cache
def gflop(weights: str, form: str, size: Size) -> float:
    """Operations of a call for one image in 10^9, counted without computing it."""
    model = build(weights, form)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), flop_counter() as counter:
        model(torch.rand(1, 3, *size))
    return float(counter.get_total_flops() / 1e9)


# --- Processes of their own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Variant:
    """What a worker runs: ``form`` is one of `build`, or of `TRANSFORM` for `GLAREEnhance`."""

    weights: str
    form: str
    bf16: bool = False


class Worker:
    """A process with one variant of the network, which runs when it is told to.

    Args:
        variant: what it runs.
        device: where.
        tidy: whether freed memory goes back to the system at once. What glibc keeps of it differs by a fifth from run
            to run, which no memory can be told by; giving it back takes time, which no time can be told by.
    """

    def __init__(self, variant: Variant, device: str, tidy: bool = False) -> None:
        task = json.dumps({**asdict(variant), "device": device, "warm": WARM_SIZE})
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--worker", task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path} | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if tidy else {}),
        )

    def ready(self) -> None:
        """Return when the network has been loaded."""
        self._answer()

    def run(self, batch: int, size: Size) -> Cost:
        """Time and memory of one call; NaN if the process dies of it, as it does without enough memory."""
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
    """What a worker's process does: a call for each line with a batch, a height and a width."""
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
    """Memory and time of variants on one size, the memory of a process of its own for each.

    What takes more than ``--seconds`` is timed once.
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


# --- The parts ------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def machine(device: str) -> dict[str, Any]:
    """What the ratios are held against: products of matrices in 10^9 operations a second, and copies in 10^9 bytes.

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


def variants(about: Mapping[str, Any], args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """Each form of both models; the share is that of the products of matrices in the row's own number format."""
    rows: Rows = []
    for weights, sizes in VARIANT_SIZES.items():
        forms = [
            Variant(weights, "straightforward"),
            Variant(weights, "optimized"),
            Variant(weights, "optimized", bf16=True),
        ]
        for size in sizes:
            group = in_turns(forms, size, args, bar)
            rows += [{**row, "ratio": group[0]["ms"] / row["ms"]} for row in group]
    if RATIO_SIZE not in VARIANT_SIZES[BASE]:
        rows += in_turns([Variant(BASE, "optimized")], RATIO_SIZE, args, bar)
    if args.device.startswith("cuda"):
        for weights in (TINY, BASE):
            rows += in_turns([Variant(weights, "optimized", bf16=True)], RATIO_SIZE, args, bar, 16)
    for row in rows:
        height, width = map(int, row["size"].split("x"))
        row["GFLOP"] = row["batch"] * gflop(row["model"], row["form"], (height, width))
        row["GFLOP/s"] = row["GFLOP"] / row["ms"] * 1000
        row["share"] = row["GFLOP/s"] / about[f"{row['dtype']}_gflops"]
        row["images/s"] = 1000 * row["batch"] / row["ms"]
    return pd.DataFrame(rows)


def gains(about: Mapping[str, Any], args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """The optimized model with one measure taken back, against the optimized model, in turns for each measure.

    Not all at once: a machine's speed drifts by more than most of them gain while as many others have their turn.
    """
    rows: Rows = []
    for weights, size in GAIN_SIZES.items():
        for name in GAINS:
            gain = GAINS[name]
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


#: By the beginning of torch's names.
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
    """How much of a growing number falls to which part, parts within parts not counted twice."""

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
    """The calls of the network's parts are booked to them."""
    parts = [
        (model.condition, "forward", "conditional encoder"),
        (model.flow, "inverse", "flow inverse"),
        (model.codebook.quantizer, "forward", "code search"),
        (model.codebook, "codes", "code features"),
        *((model.codebook.decoder, f"to_{size}", "code features") for size in ("quarter", "half", "full")),
        (model.fusion, "forward", "second decoder"),
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
    """One call of each optimized model, by the network's parts and by the kinds of operations."""
    rows: Rows = []
    for weights, size in PROFILE_SIZES.items():
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
            model(dark(1, *WARM_SIZE, args.device))
            if weights == TINY:
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


@torch.inference_mode()
def fidelity(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """How far a call in bf16 is from one in float32: the latent, the codes and, with trained weights, the image."""
    if args.val:
        lows = [to_float(read(low))[None] for low, _ in list_pairs(args.val)]
        source = "the low images of --val"
    else:
        night = darken(sample_set(), "dark")
        lows = [as_tensor(sample.load()).float() for sample in night.samples]
        source = "the built-in photographs, darkened"
    rows: Rows = []
    for weights in (BASE, TINY):
        model = build(weights, "optimized").to(args.device)
        errors, equal, decibels = [], [], []
        trained = weights not in PRESETS
        chosen = lows if trained else [low[..., :CROP, :CROP] for low in lows[:6]]
        for number, low in enumerate(chosen):
            bar.set_postfix_str(f"{weights} bf16 against float32, {number + 1} of {len(chosen)}")
            low = low.to(args.device)
            padded = pad(low, 4)[0]
            latent = model.restore_latent(padded)[0]
            with in_bf16(args.device):
                other = model.restore_latent(padded)[0].float()
            errors.append(float((other - latent).norm() / latent.norm()))
            codes = [model.codebook.quantizer.nearest(z) for z in (latent, other)]
            equal.append(float((codes[0] == codes[1]).float().mean()))
            if trained:
                exact = model(low).clamp(0, 1)
                with in_bf16(args.device):
                    decibels.append(float(psnr(model(low).float().clamp(0, 1), exact)))
        bar.update()
        rows.append(
            {
                "model": weights if trained else f"{weights}, random weights",
                "images": len(chosen),
                "of": source if trained else f"{source}, {CROP}x{CROP}",
                "latent's relative error": statistics.mean(errors),
                "equal codes": statistics.mean(equal),
                "PSNR, lowest": min(decibels, default=math.nan),
                "PSNR, mean": statistics.mean(decibels) if decibels else math.nan,
            }
        )
    return pd.DataFrame(rows)


def scaling(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """`GLAREEnhance` with its defaults and without tiles, from small images to what a camera delivers.

    Not in turns: a call that fills gigabytes which another process has just given back waits for the system.
    """
    rows: Rows = []
    for form, size in itertools.product(TRANSFORM, SCALING_SIZES):
        (row,) = in_turns([Variant(TINY, form)], size, args, bar)
        megapixels = size[0] * size[1] / 1e6
        rows.append({**row, "megapixels": megapixels, "ms per megapixel": row["ms"] / megapixels})
    return pd.DataFrame(rows)


def batch_tool(args: argparse.Namespace, bar: tqdm[Any]) -> pd.DataFrame:
    """``glare enhance`` on a folder of equal images, in turns with the network alone on the same images."""
    number, size = FOLDER
    bar.set_postfix_str(f"a folder of {number} images")
    enhance = GLAREEnhance(load(TINY), device=args.device)
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


# --- The judgement and the run --------------------------------------------------------------------------------------


def targets(about: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], by_val: bool) -> pd.DataFrame:
    """What was set out to be reached, and whether it was."""
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
        sizes = [f"{h}x{w}" for h, w in VARIANT_SIZES[BASE]]
        for size, least in zip(sizes, (1.2, 1.5), strict=False):
            value = spent[BASE, size, *plain] / spent[BASE, size, *fast]
            judge(f"base float32 at {size}, times as fast", f"at least {least}", value, value >= least)
        value = 100 * held[BASE, sizes[-1], *fast] / held[BASE, sizes[-1], *plain]
        judge(f"its peak memory at {sizes[-1]}", "at most 40 %", value, value <= 40, " %")
        for size in sizes:
            ms = spent[BASE, size, "optimized", "bf16"]
            value = spent[BASE, size, *plain] / ms
            judge(f"base bf16 at {size}, times as fast", "at least 2", value, value >= 2)
            value = spent[BASE, size, *fast] / ms
            judge("the same, against optimized float32", "at least 2", value, value >= 2)
        size = f"{RATIO_SIZE[0]}x{RATIO_SIZE[1]}"
        dtype = "bf16" if about["native_bf16"] else "float32"
        value = spent[TINY, size, "optimized", dtype] / 1000
        judge(f"glare-tiny at {size} ({dtype})", "under 1.5 s", value, value < 1.5, " s")
        value = spent[BASE, size, *fast] / spent[TINY, size, *fast]
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


def calls(only: Sequence[str], runs: int, on_gpu: bool) -> int:
    """How many steps the progress bar has."""
    turns = 1 + runs
    of = {
        "variants": turns * (3 * sum(map(len, VARIANT_SIZES.values())) + 1 + 2 * on_gpu),
        "gains": turns * len(GAIN_SIZES) * 2 * len(GAINS),
        "profile": 2 * len(PROFILE_SIZES),
        "fidelity": 2,
        "scaling": turns * len(SCALING_SIZES) * len(TRANSFORM),
        "batch": 4,
        "chain": turns * 2,
    }
    return sum(of[part] for part in only)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=PARTS, help="parts of the run (default: all)"
    )
    parser.add_argument("--device", default="cpu", help="(%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="the median is of so many (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=40, help="what takes longer is run once (%(default)s)"
    )
    parser.add_argument(
        "--val", type=Path, metavar="PAIRS", help="compare bf16 on these (default: built-in photographs)"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speed"), help="(%(default)s)")
    parser.add_argument(
        "--doc", type=Path, help="a Markdown file to put the tables in, and scaling.svg beside it"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.worker:
        serve(args.worker)
        return
    if args.runs < 1:
        parser.error("--runs: at least 1")
    typed = command("experiments/speed.py", sys.argv[1:] if arguments is None else arguments)
    try:
        run(args, typed)
    except (ValueError, OSError) as error:
        sys.exit(f"speed: {error}")


def run(args: argparse.Namespace, typed: str) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    about = machine(args.device)
    tables: dict[str, pd.DataFrame] = {}
    made: dict[str, Callable[[tqdm[Any]], pd.DataFrame]] = {
        "variants": lambda bar: variants(about, args, bar),
        "gains": lambda bar: gains(about, args, bar),
        "profile": lambda bar: profiles(about, args, bar),
        "fidelity": lambda bar: fidelity(args, bar),
        "scaling": lambda bar: scaling(args, bar),
        "batch": lambda bar: batch_tool(args, bar),
        "chain": lambda bar: chain(TINY, args.device, args.runs, bar.update),
    }
    steps = calls(args.only, args.runs, args.device.startswith("cuda"))
    with tqdm(total=steps, desc="speed", unit="call") as bar:
        for part in PARTS:
            if part in args.only:
                tables[part] = made[part](bar)
    tables["targets"] = targets(about, tables, args.val is not None)

    words = described(about, typed, time.perf_counter() - start)
    blocks = {name: markdown(told(table)) for name, table in tables.items() if len(table)}
    measured_rows = [table.assign(table=name) for name, table in tables.items() if name != "targets"]
    with whole_file(args.out / "speed.csv") as beside:
        pd.concat(measured_rows).to_csv(beside, index=False)
    with whole_file(args.out / "speed.md") as beside:
        text = "\n".join(f"## {name}\n\n{block}\n" for name, block in blocks.items())
        beside.write_text(f"{words}\n\n{text}", encoding="utf-8")
    with whole_file(args.out / "speed.json") as beside:
        facts = {"command": typed, "machine": about, "versions": versions()}
        content = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
        beside.write_text(json.dumps({**facts, **content}, indent=1, ensure_ascii=False), encoding="utf-8")
    if "scaling" in tables:
        plot(tables["scaling"], args.out / "scaling.svg")
    if args.doc:
        insert(args.doc, {"machine": words, **blocks})
        if "scaling" in tables:
            shutil.copyfile(args.out / "scaling.svg", args.doc.with_name("scaling.svg"))
    for name, table in tables.items():
        if len(table):
            print(f"\n{name}\n{told(table).to_string(index=False)}")
    print(f"\n{words}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
