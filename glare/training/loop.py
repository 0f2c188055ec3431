"""One loop for all stages, on accelerate: one process, or many under ``accelerate launch``, with the same command.

The data are a function of the step alone and the checkpoint holds everything else, so a run that was killed goes on
as if it had not been.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
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
from glare.files import whole_file
from glare.training.stages import Stage

CHECKPOINT = "checkpoint.pt"
#: A loss beyond this counts as infinite, such as that of an exploding log-determinant.
EXPLODED = 1e5
#: Share of the run after which the last third begins, for `Settings.last_crop`.
LAST = 2 / 3
#: How many validation pairs are shown.
SHOWN = 4


@dataclass(frozen=True)
class Settings:
    """Length and manner of a training.

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
        dtype: `torch.bfloat16` computes in it where that is safe; `torch.float32`.
        validate_minutes, checkpoint_minutes: how often.
        seed: of the data and of everything drawn.
        last_crop: side of the crops in the last third, as many pixels a step; ``None`` keeps the side. Statistics of
            norms and attention differ between crops and the whole images that users have.
        first_step: step of this stage that the weights have reached already, where a run goes on of which only the
            weights are left: learning rate and data go on there, the optimiser starts anew.
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
    dtype: torch.dtype = torch.bfloat16
    validate_minutes: float = 10.0
    checkpoint_minutes: float = 3.0
    seed: int = 0
    last_crop: int | None = None
    first_step: int = 0


class _Shard(Sampler[int]):
    """The indices of one process from ``start`` on, so that all processes together read 0, 1, 2, ..."""

    def __init__(self, start: int, stop: int, accelerator: Accelerator) -> None:
        self.indices = range(start + accelerator.process_index, stop, accelerator.num_processes)

    def __iter__(self) -> Any:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Average:
    """Exponential moving average of the trained parameters, which is validated and kept."""

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
        FloatingPointError: at a loss that is not finite or has exploded, or a gradient that is not finite, naming the
            step, the images and the layer; the last checkpoint stays.
    """
    return Run(stage, data, val, settings).to_its_end()


class Run:
    """A stage in training: see `train`."""

    def __init__(self, stage: Stage, data: Crops, val: Path | None, settings: Settings) -> None:
        # By default accelerate takes several processes for several GPUs.
        cpu = not torch.accelerator.is_available()
        mixed = "bf16" if settings.dtype == torch.bfloat16 else "no"
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=mixed)
        set_seed(settings.seed, device_specific=True)
        self.stage, self.data, self.val, self.settings = stage, data, val, settings
        self.out, self.main = settings.out, self.accelerator.is_main_process
        self.out.mkdir(parents=True, exist_ok=True)
        stage.to(self.accelerator.device).to(memory_format=torch.channels_last)
        self.parameters = [p for p in stage.parameters() if p.requires_grad]
        self.peak = settings.lr if settings.lr is not None else stage.lr
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.peak, betas=(0.9, 0.99), weight_decay=1e-4
        )
        self.step, self.elapsed, self.best = settings.first_step, 0.0, -math.inf
        if (self.out / CHECKPOINT).exists():
            self._resume()
        else:
            if self.step == 0:  # later the stage has begun already
                low, high = zip(*(data[i] for i in range(self.crops_per_step())), strict=True)
                device = self.accelerator.device
                stage.eval().start(torch.stack(low).to(device), torch.stack(high).to(device))
            self.average = Average(self.parameters)
        self.wrapped, self.optimizer = self.accelerator.prepare(stage.train(), self.optimizer)
        # Only those that no earlier stage has listed, since the stages of one model share most of their pairs.
        told = {line for entry in settings.history for line in entry.get("hashes", ())}
        hashes = fingerprints(high for _, high in data.pairs) if self.main else []
        self.hashes = [line for line in dict.fromkeys(hashes) if line not in told]
        self.log = _Log(self.out, self.main)
        self.began = self.last_validation = self.last_checkpoint = time.monotonic()
        self.bar = tqdm(initial=self.step, total=settings.steps, desc=self.out.name, disable=not self.main)

    def to_its_end(self) -> Path:
        """Train until steps or minutes are spent, and return the folder of the weights to keep."""
        settings, accelerator = self.settings, self.accelerator
        for low, high, indices in self._batches():
            done = self.progress()
            rate = self.peak * min(1.0, (self.step - settings.first_step + 1) / 50)
            rate *= 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            logs = self._update(low, high, indices)
            self.bar.update()
            if self.step % 10 == 0 and self.main:
                logs["lr"] = torch.tensor(rate)
                self.log.write(self.step, {k: float(v) for k, v in logs.items()})
                self.bar.set_postfix({k: f"{float(v):.4g}" for k, v in logs.items() if k != "lr"})
            if self.main:
                now = time.monotonic()
                if now - self.last_validation > 60 * settings.validate_minutes:
                    self._keep()
                if now - self.last_checkpoint > 60 * settings.checkpoint_minutes:
                    self._checkpoint()
        self.bar.close()
        by_time = self.step < settings.steps
        reached = f"{settings.max_minutes:g} minutes" if by_time else f"{settings.steps} steps"
        accelerator.print(f"{self.out} is at its end after {self.step} steps: {reached} were given.")
        if self.main:
            self._keep(final=True)
            self._checkpoint()
        accelerator.wait_for_everyone()
        return self.out / ("best" if (self.out / "best").exists() else "last")

    def crops_per_step(self, batch: int | None = None) -> int:
        """Return how many crops all processes together take in a step."""
        return (batch or self.settings.batch) * int(self.accelerator.num_processes)

    def seconds(self) -> float:
        """Return the seconds of training, over all resumptions."""
        return self.elapsed + time.monotonic() - self.began

    def progress(self) -> float:
        """Return the share of the steps, or of the minutes, that is spent, whichever is more: 1 is the end."""
        limit = self.settings.max_minutes
        by_time = self.seconds() / (60.0 * limit) if limit else 0.0
        # The clock of the main process counts: all must take the same learning rate and stop at the same step.
        done = max(self.step / self.settings.steps, by_time)
        return float(broadcast(torch.tensor(done, device=self.accelerator.device)))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor, range]]:
        """Yield low and normal-light crops (B,3,crop,crop) of this process and their indices, from the step on."""
        while (done := self.progress()) < 1.0:
            last = self.settings.last_crop if done >= LAST else None
            data, batch = self.data, self.settings.batch
            if last is not None:
                data, batch = data.of_side(last), max(1, round(batch * (data.crop / last) ** 2))
            first, stop = (
                min(step * self.crops_per_step(batch), len(data)) for step in (self.step, self.settings.steps)
            )
            shard = _Shard(first, stop, self.accelerator)
            if len(shard) < batch:
                return
            workers = self.settings.workers
            loader = DataLoader(
                data,
                batch,
                sampler=shard,
                num_workers=workers,
                persistent_workers=workers > 0,
                drop_last=True,
            )
            for i, (low, high) in enumerate(loader):
                yield low, high, shard.indices[i * batch : (i + 1) * batch]
                done = self.progress()
                if done >= 1.0 or (last is None and self.settings.last_crop is not None and done >= LAST):
                    break

    def _update(self, low: Tensor, high: Tensor, indices: range) -> dict[str, Tensor]:
        """Take a step of the optimiser on a batch (B,3,crop,crop) twice, and return scalars to log."""
        accelerator, settings = self.accelerator, self.settings
        torch.manual_seed(hash((settings.seed, self.step, accelerator.process_index)))
        random.seed(f"{settings.seed} {self.step}")  # for numbers that all processes draw alike
        batch = (t.to(accelerator.device, memory_format=torch.channels_last) for t in (low, high))
        with accelerator.autocast():
            loss, logs = self.wrapped(*batch)
        if not loss.abs() < EXPLODED:
            layer = _bad_layer(self.stage, low, high)
            raise self._broken(
                f"The loss is {loss.item()} at step {self.step}, first in layer {layer}", indices
            )
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(self.parameters, 1.0)
        if not torch.isfinite(norm):
            raise self._broken(f"The gradient is {norm.item()} at step {self.step}", indices)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.step)
        self.step += 1
        return {"loss": loss.detach(), **logs, "gradient": norm}

    def _broken(self, what: str, indices: range) -> FloatingPointError:
        images = sorted({str(file) for index in indices for file in self.data.files(index)})
        return FloatingPointError(
            f"{what}, on the images {', '.join(images)}. {self.out / CHECKPOINT} is from before."
        )

    def _history(self) -> list[dict[str, Any]]:
        steps = self.step - self.settings.first_step
        done = {
            "stage": self.settings.name,
            "steps": steps,
            "crops": steps * self.crops_per_step(),
            "minutes": self.seconds() / 60.0,
            "hardware": _hardware(self.accelerator),
            "data": list(self.settings.data),
            "command": self.settings.command,
            "hashes": self.hashes,
        }
        return [*self.settings.history, done]

    def _keep(self, final: bool = False) -> None:
        """Validate and keep the moving average of the weights."""
        self.average.swap()
        self.stage.eval()
        model, history = self.stage.model, self._history()
        if self.val is not None:
            figures = validate(self.stage, self.val, self.settings.dtype)
            _write_sheet(self.stage, self.val, self.out / "sheets" / f"{self.step:06d}.png")
            score = next(iter(figures.values()))
            self.log.write(self.step, {f"val/{k}": v for k, v in figures.items()})
            self.bar.write(f"step {self.step}, val: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
            weights.save(model, self.out / "validated" / f"{self.step:06d}", history=history)
            if score > self.best:
                self.best = score
                weights.save(model, self.out / "best", history=history)
        if final or self.val is None:
            weights.save(model, self.out / "last", history=history)
        self.stage.train()
        self.average.swap()
        self.last_validation = time.monotonic()

    def _this_run(self) -> dict[str, Any]:
        """Return what tells a run from others."""
        return {"stage": self.settings.name, "config": self.stage.model.config.to_dict()}

    def _resume(self) -> None:
        # Under torchrun the CPU is called cpu:0, which torch.load does not know.
        device = self.accelerator.device
        place = device if device.type != "cpu" else "cpu"
        state = torch.load(self.out / CHECKPOINT, weights_only=True, map_location=place)
        if state["run"] != self._this_run():
            same = state["run"]["stage"] == self.settings.name
            other = "the same stage of another configuration" if same else f"stage {state['run']['stage']}"
            raise ValueError(
                f"{self.out} holds another run: {other}. This one is stage {self.settings.name}."
            )
        self.stage.load_state_dict(state["stage"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = Average(self.parameters)
        self.average.values = state["average"]
        self.step, self.elapsed, self.best = state["step"], state["elapsed"], state["best"]
        minutes = self.elapsed / 60
        self.accelerator.print(f"{self.out} goes on at step {self.step}, after {minutes:.1f} minutes.")

    def _checkpoint(self) -> None:
        state = {
            "run": self._this_run(),
            "stage": self.stage.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "step": self.step,
            "elapsed": self.seconds(),
            "best": self.best,
        }
        with whole_file(self.out / CHECKPOINT) as beside:
            torch.save(state, beside)
        self.last_checkpoint = time.monotonic()


def _hardware(accelerator: Accelerator) -> str:
    if accelerator.device.type == "cuda":
        return f"{accelerator.num_processes} × {torch.cuda.get_device_name(accelerator.device)}"
    return f"{accelerator.num_processes * torch.get_num_threads()} CPU threads"


@torch.inference_mode()
def validate(stage: Stage, val: Path, dtype: torch.dtype) -> dict[str, float]:
    """Return the means of the stage's figures over the pairs in ``val``, cut to sides that the network takes."""
    device = next(stage.parameters()).device
    rows = []
    for files in list_pairs(val):
        low, high = read_pair(files, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            rows.append(stage.validate(*stage.model.cut(low, high)))
    return {key: sum(float(row[key]) for row in rows) / len(rows) for key in rows[0]}


@torch.inference_mode()
def _write_sheet(stage: Stage, val: Path, path: Path) -> None:
    """Write a picture with a row for each of the first pairs: input, the stage's pictures, reference."""
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
    """Return the name of the first module whose output is not finite, or ``loss`` where all are."""
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
    """Log as JSON lines and for TensorBoard."""

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
