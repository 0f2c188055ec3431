"""One loop for all stages, on accelerate: one process, or many under ``accelerate launch``, with the same command.

The data are a function of the step alone and the checkpoint holds everything else, so a run that was killed goes on
as if it had not been.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler
from torchvision.transforms.v2.functional import resize
from torchvision.utils import save_image
from tqdm import tqdm

from glare import weights
from glare.data.overlap import fingerprints
from glare.data.pairs import Crops, list_pairs, read_pair
from glare.training.stages import Stage

CHECKPOINT = "checkpoint.pt"
#: A loss beyond this is as good as infinite: an exploding log-determinant, say.
EXPLODED = 1e5
#: Validation pairs that are shown.
SHOWN = 4


@dataclass(frozen=True)
class Settings:
    """How long and how to train.

    Args:
        out: folder of the run; what is there already is resumed.
        name: of the stage, for the card.
        data: names of the data sets, for the card.
        command: what was typed, for the card.
        history: how the weights to start from were trained.
        steps: optimiser steps at the most.
        batch: crops per step and process.
        max_minutes: wall-clock limit over all resumptions; the learning rate is lowered along with it.
        lr: learning rate at its highest; ``None`` takes the stage's own.
        workers: processes that read images.
        bf16: compute in bfloat16 where it is safe.
        validate_minutes, checkpoint_minutes: how often.
        seed: of the data and of everything drawn.
    """

    out: Path
    steps: int
    name: str
    data: Sequence[str] = ()
    command: str = ""
    history: Sequence[dict[str, Any]] = ()
    batch: int = 8
    max_minutes: float | None = None
    lr: float | None = None
    workers: int = 1
    bf16: bool = True
    validate_minutes: float = 10.0
    checkpoint_minutes: float = 3.0
    seed: int = 0


class _Shard(Sampler[int]):
    """The indices of one process from ``start`` on, so that all processes together read 0, 1, 2, ..."""

    def __init__(self, start: int, stop: int, accelerator: Accelerator) -> None:
        self.indices = range(start + accelerator.process_index, stop, accelerator.num_processes)

    def __iter__(self) -> Any:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Average:
    """Exponential moving average of the parameters that move; what is validated and kept."""

    def __init__(self, parameters: Sequence[Tensor], decay: float = 0.998) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters; quickly in the first steps."""
        torch._foreach_lerp_(self.values, self.parameters, 1.0 - min(self.decay, (1 + step) / (10 + step)))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the parameters."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def train(stage: Stage, data: Crops, val: Path | None, settings: Settings) -> Path:
    """Train ``stage`` and return the folder of the best weights by validation (the last without ``val``).

    Writes to ``settings.out``: ``log.jsonl``, TensorBoard files, ``checkpoint.pt``, ``best/`` and ``last/``, and in
    ``validated/`` the weights of every validation, to be judged by other measures too.

    Raises:
        FloatingPointError: at a loss that is not finite or has exploded, naming the step, the images and the layer;
            the last checkpoint stays.
    """
    # Left to itself accelerate takes several processes for several GPUs.
    cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if settings.bf16 else "no")
    set_seed(settings.seed, device_specific=True)
    out = settings.out
    out.mkdir(parents=True, exist_ok=True)
    stage.to(accelerator.device).to(memory_format=torch.channels_last)
    parameters = [p for p in stage.parameters() if p.requires_grad]
    peak = settings.lr if settings.lr is not None else stage.lr
    optimizer = torch.optim.AdamW(parameters, lr=peak, betas=(0.9, 0.99), weight_decay=1e-4)
    this_run = {"stage": settings.name, "config": stage.model.config.to_dict()}
    step, elapsed, best = 0, 0.0, -math.inf
    per_step = settings.batch * accelerator.num_processes
    if (out / CHECKPOINT).exists():
        # Under torchrun the CPU is called cpu:0, a place that torch.load does not know.
        place = accelerator.device if accelerator.device.type != "cpu" else "cpu"
        state = torch.load(out / CHECKPOINT, weights_only=True, map_location=place)
        if state["run"] != this_run:
            same = state["run"]["stage"] == settings.name
            other = "the same stage of another configuration" if same else f"stage {state['run']['stage']}"
            raise ValueError(f"{out} holds another run: {other}. This one is stage {settings.name}.")
        stage.load_state_dict(state["stage"])
        optimizer.load_state_dict(state["optimizer"])
        average = Average(parameters)
        average.values = state["average"]
        step, elapsed, best = state["step"], state["elapsed"], state["best"]
        accelerator.print(f"{out} goes on at step {step}, after {elapsed / 60:.1f} minutes.")
    else:
        low, high = (
            torch.stack(t).to(accelerator.device)
            for t in zip(*(data[i] for i in range(per_step)), strict=True)
        )
        stage.eval().start(low, high)
        average = Average(parameters)
    wrapped, optimizer = accelerator.prepare(stage.train(), optimizer)
    loader = DataLoader(
        data,
        batch_size=settings.batch,
        sampler=_Shard(step * per_step, min(settings.steps * per_step, len(data)), accelerator),
        num_workers=settings.workers,
        persistent_workers=settings.workers > 0,
        drop_last=True,
    )
    # Only what no earlier stage has told: the stages of one model share most of their pairs.
    told = {line for entry in settings.history for line in entry.get("hashes", ())}
    hashes = fingerprints(high for _, high in data.pairs) if accelerator.is_main_process else []
    hashes = [line for line in dict.fromkeys(hashes) if line not in told]
    log = _Log(out, accelerator.is_main_process)
    bar = tqdm(initial=step, total=settings.steps, desc=out.name, disable=not accelerator.is_main_process)
    began = last_validation = last_checkpoint = time.monotonic()

    def progress() -> float:
        by_time = 0.0
        if settings.max_minutes:
            by_time = (elapsed + time.monotonic() - began) / (60.0 * settings.max_minutes)
        # By the clock of the main process: all must take the same learning rate and stop at the same step.
        done = torch.tensor(max(step / settings.steps, by_time), device=accelerator.device)
        return float(broadcast(done))

    def history() -> list[dict[str, Any]]:
        done = {
            "stage": settings.name,
            "steps": step,
            "crops": step * per_step,
            "minutes": (elapsed + time.monotonic() - began) / 60.0,
            "hardware": _hardware(accelerator),
            "data": list(settings.data),
            "command": settings.command,
            "hashes": hashes,
        }
        return [*settings.history, done]

    def keep(final: bool = False) -> None:
        nonlocal best, last_validation
        average.swap()
        stage.eval()
        if val is not None:
            figures = validate(stage, val, settings.bf16)
            _write_sheet(stage, val, out / "sheets" / f"{step:06d}.png")
            score = next(iter(figures.values()))
            log.write(step, {f"val/{k}": v for k, v in figures.items()})
            bar.write(f"step {step}, val: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            weights.save(stage.model, out / "validated" / f"{step:06d}", history=history())
            if score > best:
                best = score
                weights.save(stage.model, out / "best", history=history())
        if final or val is None:
            weights.save(stage.model, out / "last", history=history())
        stage.train()
        average.swap()
        last_validation = time.monotonic()

    def checkpoint() -> None:
        nonlocal last_checkpoint
        state = {
            "run": this_run,
            "stage": stage.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": average.values,
            "step": step,
            "elapsed": elapsed + time.monotonic() - began,
            "best": best,
        }
        beside = out / f".{CHECKPOINT}.{os.getpid()}"
        torch.save(state, beside)
        beside.replace(out / CHECKPOINT)
        last_checkpoint = time.monotonic()

    for low, high in loader:
        done = progress()
        if done >= 1.0:
            break
        rate = peak * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(hash((settings.seed, step, accelerator.process_index)))
        random.seed(f"{settings.seed} {step}")  # of what all processes draw alike
        batch = (t.to(accelerator.device, memory_format=torch.channels_last) for t in (low, high))
        with accelerator.autocast():
            loss, logs = wrapped(*batch)
        if not loss.abs() < EXPLODED:
            first = step * per_step + accelerator.process_index
            indices = range(first, first + per_step, accelerator.num_processes)
            images = sorted({str(file) for index in indices for file in data.files(index)})
            raise FloatingPointError(
                f"The loss is {loss.item()} at step {step}, first in layer {_bad_layer(stage, low, high)}, on the "
                f"images {', '.join(images)}. {out / CHECKPOINT} is from before."
            )
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(step)
        step += 1
        bar.update()
        if step % 10 == 0 and accelerator.is_main_process:
            logs = {"loss": loss.detach(), **logs, "gradient": norm, "lr": torch.tensor(rate)}
            log.write(step, {k: float(v) for k, v in logs.items()})
            bar.set_postfix({k: f"{float(v):.4g}" for k, v in logs.items() if k != "lr"})
        if accelerator.is_main_process:
            now = time.monotonic()
            if now - last_validation > 60 * settings.validate_minutes:
                keep()
            if now - last_checkpoint > 60 * settings.checkpoint_minutes:
                checkpoint()
    bar.close()
    reached = f"{settings.max_minutes:g} minutes" if step < settings.steps else f"{settings.steps} steps"
    accelerator.print(f"{out} is at its end after {step} steps: {reached} were given.")
    if accelerator.is_main_process:
        keep(final=True)
        checkpoint()
    accelerator.wait_for_everyone()
    return out / ("best" if (out / "best").exists() else "last")


def _hardware(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name(accelerator.device)}"
    return f"{accelerator.num_processes * torch.get_num_threads()} CPU threads"


@torch.inference_mode()
def validate(stage: Stage, val: Path, bf16: bool) -> dict[str, float]:
    """Mean of the stage's figures over the pairs in ``val``, whole images (cut to what the network takes)."""
    device = next(stage.parameters()).device
    rows = []
    for files in list_pairs(val):
        low, high = read_pair(files, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            rows.append(stage.validate(*stage.model.cut(low, high)))
    return {key: sum(float(row[key]) for row in rows) / len(rows) for key in rows[0]}


@torch.inference_mode()
def _write_sheet(stage: Stage, val: Path, path: Path) -> None:
    """A row for each of the first pairs: input, what the stage makes of it, reference."""
    device = next(stage.parameters()).device
    rows: list[list[Tensor]] = []
    for files in list_pairs(val)[:SHOWN]:
        low, high = stage.model.cut(*read_pair(files, device))
        pictures = [picture.float().clamp(0, 1) for picture in stage.pictures(low, high)]
        row = (low, *pictures, high)
        rows.append([resize(picture[0], [240, 320], antialias=True) for picture in row])
    path.parent.mkdir(exist_ok=True)
    save_image([tile for row in rows for tile in row], path, nrow=len(rows[0]), padding=2)


@torch.no_grad()
def _bad_layer(stage: Stage, low: Tensor, high: Tensor) -> str:
    """Name of the first module whose output is not finite, or ``loss`` where all are."""
    bad: list[str] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if any(isinstance(t, Tensor) and not t.isfinite().all() for t in outputs):
                bad.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in stage.named_modules() if name]
    device = next(stage.parameters()).device
    stage(low.to(device), high.to(device))
    for handle in handles:
        handle.remove()
    return bad[0] if bad else "loss"


class _Log:
    """JSON lines and TensorBoard."""

    def __init__(self, out: Path, active: bool) -> None:
        self.active = active
        if active:
            from torch.utils.tensorboard import SummaryWriter

            self.file = open(out / "log.jsonl", "a", buffering=1)  # noqa: SIM115 (lives as long as the run)
            self.board = SummaryWriter(str(out))

    def write(self, step: int, figures: dict[str, float]) -> None:
        if not self.active:
            return
        self.file.write(
            json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in figures.items()}}) + "\n"
        )
        for name, value in figures.items():
            self.board.add_scalar(name, value, step)
