"""The command line ``python -m detection bench | restore | finetune``, which the scripts of experiments/ call too."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import distributed

from detection.cache import Cache
from detection.data.auto import read_dataset
from detection.data.builtin import sample_set
from detection.data.classes import class_map, read_classes, without_use
from detection.data.core import Dataset, Sample
from detection.data.darken import NIGHT, darken, mean_grey
from detection.data.paired import read_test_sets
from detection.detectors import BUILT_IN, detector
from detection.detectors.base import Detector
from detection.enhancers import NAMES, Enhancer, Folder, enhancer, raw
from detection.faults import FaultError, blame, one_line
from detection.metrics.face_in_person import PERSON, RULE
from detection.metrics.image_quality import DEFINITIONS, METRICS, Metric, gt_mean, lpips
from detection.metrics.leakage import find_leakage, scenes_seen
from detection.report.bench import Pictures, notes_on_bench, remove_pictures, write_bench
from detection.report.faces import notes_on_faces, table_of_faces, write_faces
from detection.report.provenance import command, portable, versions, without_folders
from detection.report.restoration import notes_on_restoration, write_restoration
from detection.report.tables import cell, overview, rounded, with_intervals
from detection.results import Results
from detection.runner import collect
from glare.data.degrade import LEVELS
from glare.metrics import LPIPS

T = TypeVar("T")

# How many processes there are, as torchrun and the kinds of MPI tell.
_PROCESSES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_COMPARED = (METRICS["PSNR"], METRICS["SSIM"])
_DOWNLOAD = "download"
_ENHANCERS = (
    "by name; also glare@FIDELITY, glare=WEIGHTS@FIDELITY, onnx:FILE, folder:PATH, module:callable "
    "(default: %(default)s)"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of `COMMANDS`, which is named first, with the rest of the arguments."""
    parser = argparse.ArgumentParser(prog="python -m detection", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=COMMANDS, help="each tells its own arguments with --help")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args(arguments)
    COMMANDS[args.command](args.arguments)


def bench(arguments: Sequence[str] | None = None, program: str = "-m detection bench") -> None:
    """Tell which enhancer helps a detector in the dark: mAP, image quality and time for each light and enhancer.

    Args:
        arguments: by default those of the process.
        program: the words behind ``python`` in the command that was typed.
    """
    parser = _parser(program, "Which enhancer helps a detector in the dark: a row per light and enhancer.")
    parser.add_argument(
        "--data",
        type=Path,
        help="a folder of ExDark, DARK FACE, YOLO, COCO or PASCAL VOC, a data.yaml, or a COCO JSON (default: the "
        "built-in set)",
    )
    parser.add_argument(
        "--split",
        help="of ExDark: train, val, test or a file of names (default: test); of other sets (default: val)",
    )
    parser.add_argument("--images", type=Path, help="folder with the images of the COCO JSON")
    parser.add_argument(
        "--classes",
        default="exdark",
        help="classes to find: exdark, coco, names with commas between, or a file of names (default: exdark)",
    )
    parser.add_argument(
        "--detector",
        default=BUILT_IN,
        help="one or more of: a name or checkpoint of ultralytics', a name of torchvision's, or with its weights "
        "NAME=FILE, module:callable (default: %(default)s)",
    )
    parser.add_argument("--enhancers", default=",".join(NAMES), help=_ENHANCERS)
    parser.add_argument(
        "--levels",
        help="how dark to make the images; a level with -phone behind it is a telephone's night, and `none` leaves "
        f"them as they are (default: {','.join(LEVELS)}; `none` for a set that says what light it was taken in, as "
        "ExDark does, or is dark)",
    )
    parser.add_argument(
        "--match",
        choices=[RULE],
        help="of faces that are labelled, as in DARK FACE: a person counts whose upper half holds a face's centre",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the simulated noise (default: 0)")
    parser.add_argument(
        "--draws",
        type=int,
        default=1,
        help="times that each photograph is darkened, by the seeds from --seed on (default: 1)",
    )
    parser.add_argument("--device", default=_device())
    parser.add_argument("--lpips", type=Path, help="state_dict of LPIPS-alex, for a column of that measure")
    parser.add_argument("--out", type=Path, default=Path("runs") / _name(program).split()[-1])
    parser.add_argument(
        "--cache", type=Path, help="folder of enhanced images and detections (default: cache in --out)"
    )
    args = parser.parse_args(arguments)
    with _told(program):
        _bench(args, _command(program, arguments))


def _bench(args: argparse.Namespace, typed: str) -> None:
    first = _join(args)
    _check_device(args.device)
    enhancers = _by_name(args.enhancers, lambda name: enhancer(name, args.device))
    if args.data is None:
        clean = sample_set()
    else:
        classes = read_classes(args.classes)
        clean = read_dataset(args.data, images=args.images, split=args.split, classes=classes)
    if args.match:
        clean = _faces_as_persons(clean)
    _tell_faults(clean, first)
    says_light = any(sample.light != Sample.light for sample in clean.samples)
    grey = float("nan") if says_light else mean_grey(clean)
    dark_already = says_light or grey < NIGHT
    levels = args.levels.split(",") if args.levels else ["none"] if dark_already else list(LEVELS)
    if levels == ["none"] and args.draws != 1:
        raise ValueError("Expected --draws 1 where photographs are not darkened: there is no noise to draw.")
    data = clean if levels == ["none"] else darken(clean, *levels, seed=args.seed, draws=args.draws)
    detectors = _by_name(args.detector, lambda name: detector(name, device=args.device))
    for name, one in detectors.items():
        with blame(f"detector `{name}`"):
            one([np.zeros((64, 64, 3), np.uint8)])
    about = [without_use(clean.classes, clean.names, {name: one.names for name, one in detectors.items()})]
    settings = {name: str(getattr(one, "settings", "")) for name, one in detectors.items()}
    about += [f"{name}: {asked}." for name, asked in settings.items() if asked]
    if grey < NIGHT:
        about.append(
            f"The photographs are dark already, their mean grey level is {grey:.2f} of 1"
            + (": they were not darkened." if levels == ["none"] else ", and were darkened further.")
        )
    for line in about if first else ():
        print(line, flush=True)
    one_or_more = detectors if len(detectors) > 1 else next(iter(detectors.values()))
    if args.match:
        _match_faces(args, typed, data, enhancers, detectors, about if first else None)
        return
    perceived = _lpips(args.lpips, args.device)
    metrics = [*_COMPARED, *(perceived if _has(data, references=True) else [])]
    if _has(data, references=False):
        metrics.append(METRICS["NIQE"])
    args.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(args.cache or args.out / "cache")

    pictures = Pictures(args.out, data)
    results = collect(data, enhancers, one_or_more, metrics, cache=cache, progress=True, on_image=pictures)
    day = None if data is clean else collect(clean, {"raw": raw}, one_or_more, (), cache=cache)
    if not first:
        return
    table = results.table()
    warnings, overlaps = _leakage(results)
    seeds = range(args.seed, args.seed + args.draws)
    notes = [*warnings, *notes_on_bench(table, clean, list(detectors), seeds, args.device)]
    when = "As they were, before darkening:" if dark_already else "By day, before darkening:"
    for row in [] if day is None else _all_together(day.table()).to_dict("records"):
        of = f" {row['detector']}:" if len(detectors) > 1 else ""
        notes.insert(
            len(warnings) + 1,
            f"{when}{of} mAP50 {row['mAP50']:.4f}, mAP50-95 {row['mAP50-95']:.4f}.",
        )
    faults = next((place for place, note in enumerate(notes) if note.startswith("Fault: ")), len(notes))
    notes[faults:faults] = about
    print(rounded(overview(table)).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes))
    shown = (data.samples[number] for number in results.samples)
    files = sorted({pictures.file(sample) for sample in shown if sample.draw == 0})
    remove_pictures(args.out, files)
    made_with = _made_with(typed, results, detectors) | {"overlaps": overlaps, "pictures": files}
    write_bench(args.out, results, table, [without_folders(note) for note in notes], made_with)
    print(f"written to {args.out}: {args.out / 'report.html'} shows it all")


def _faces_as_persons(faces: Dataset) -> Dataset:
    """The set with its faces under the class ``person``, to which detectors' persons are matched."""
    named = class_map(faces.classes, ["face"]) >= 0
    if not named.any():
        raise ValueError(f"Expected a set of faces for --match {RULE} but got {', '.join(faces.classes)}.")
    samples = []
    for sample in faces.samples:
        face = named[sample.labels]
        samples.append(
            replace(
                sample, boxes=sample.boxes[face], labels=sample.labels[face] * 0, crowd=sample.crowd[face]
            )
        )
    return faces.replace(samples=tuple(samples), classes=(PERSON,), names=(PERSON,))


def _match_faces(
    args: argparse.Namespace,
    typed: str,
    data: Dataset,
    enhancers: Mapping[str, Enhancer | Folder],
    detectors: Mapping[str, Detector],
    about: list[str] | None,
) -> None:
    """Print and write the table of `table_of_faces`; ``about`` is None where another process does."""
    cache = Cache(args.cache or args.out / "cache")
    one_or_more = detectors if len(detectors) > 1 else next(iter(detectors.values()))
    results = collect(data, enhancers, one_or_more, (), cache=cache, progress=True)
    if about is None:
        return
    table = table_of_faces(results)
    notes = notes_on_faces(results, about)
    kept = [without_folders(note) for note in notes]
    write_faces(args.out, table, kept, _made_with(typed, results, detectors))
    print(rounded(table).to_string(index=False, na_rep=""))
    print("\n" + "\n".join(notes) + f"\nwritten to {args.out}")


def restore(arguments: Sequence[str] | None = None, program: str = "-m detection restore") -> None:
    """Tell how close enhanced images come to their references, or how natural they look; see `bench`."""
    parser = _parser(
        program, "How close enhanced images come to their references: a row per set and enhancer."
    )
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        help="folders of test sets: low/ and high/, input/ and target/, Low/ and Normal/, SICE's Label/, images "
        "without references, or folders above such (default: the built-in photographs, darkened)",
    )
    parser.add_argument("--enhancers", default=",".join(NAMES), help=_ENHANCERS)
    parser.add_argument(
        "--gt-mean",
        action="store_true",
        help="also the figures after scaling each image to the brightness of its reference, beside the plain ones",
    )
    parser.add_argument(
        "--lpips",
        nargs="?",
        const=_DOWNLOAD,
        metavar="FILE",
        help="a column of LPIPS-alex, from the file of its state_dict, or else with torchvision's AlexNet, which is "
        "downloaded",
    )
    parser.add_argument(
        "--as",
        dest="definition",
        choices=DEFINITIONS,
        help="also PSNR and SSIM as a package of others defines them, in columns of that name",
    )
    parser.add_argument("--device", default=_device())
    parser.add_argument("--out", type=Path, default=Path("runs") / _name(program).split()[-1])
    parser.add_argument("--cache", type=Path, help="folder of enhanced images (default: cache in --out)")
    args = parser.parse_args(arguments)
    with _told(program):
        _restore(args, _command(program, arguments))


def _restore(args: argparse.Namespace, typed: str) -> None:
    first = _join(args)
    _check_device(args.device)
    enhancers = {name: enhancer(name, args.device) for name in args.enhancers.split(",")}
    data = read_test_sets(*args.data) if args.data else darken(sample_set(), *LEVELS)
    _tell_faults(data, first)
    compared = [*_COMPARED, *_lpips(args.lpips, args.device)]
    if args.gt_mean:
        enhancers = beside_gamma(enhancers)
        compared = [one for metric in compared for one in (metric, gt_mean(metric))]
    if args.definition:
        compared += DEFINITIONS[args.definition]
    metrics = compared if _has(data, references=True) else []
    if _has(data, references=False):
        metrics = [*metrics, METRICS["NIQE"]]
    args.out.mkdir(parents=True, exist_ok=True)
    cache = Cache(args.cache or args.out / "cache")

    results = collect(data, enhancers, metrics=metrics, cache=cache, progress=True)
    if not first:
        return
    warnings, overlaps = _leakage(results, by_set=True)
    notes = [without_folders(note) for note in [*warnings, *notes_on_restoration(results, args.device)]]
    table = results.table()
    made_with = _made_with(typed, results) | {
        "notes": notes,
        "faults": [without_folders(fault) for fault in results.faults],
        "overlaps": overlaps,
    }
    write_restoration(args.out, results, table, notes, made_with)
    read = with_intervals(table)
    formats: dict[Any, Callable[[Any], str]] = {
        column: lambda value, column=str(column): cell(column, value)  # type: ignore[misc]
        for column in read.select_dtypes("float")
    }
    print(read.to_string(index=False, na_rep="", formatters=formats))
    print("\n" + "\n".join(notes) + f"\nwritten to {args.out}")


def _all_together(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all images, out of those of each light and place."""
    rows = table[table["light"] == "all"] if (table["light"] == "all").any() else table
    return rows[rows["place"] == "all"] if "place" in rows else rows


def beside_gamma(enhancers: dict[str, Enhancer | Folder]) -> dict[str, Enhancer | Folder]:
    """Return enhancers with ``gamma`` among them, whose row shows what GT-mean is worth."""
    return enhancers if "gamma" in enhancers else {**enhancers, "gamma": enhancer("gamma")}


def finetune(arguments: Sequence[str] | None = None, program: str = "-m detection finetune") -> None:
    """Fine-tune a YOLO behind each enhancer, or into the built-in detector: `detection.finetune`; see `bench`."""
    from detection.detectors.ultralytics import WEIGHTS  # imports ultralytics only for this command
    from detection.finetune import Protocol, compare, make_built_in, training_and_testing

    parser = _parser(
        program, "Fine-tune a YOLO: on what enhancers make of dark images, or into the built-in detector."
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="a folder of ExDark or YOLO's layout, or a COCO JSON"
    )
    parser.add_argument(
        "--weights", help="a YOLO's .pt, a pickle, so use one you trust (default: the built-in)"
    )
    parser.add_argument("--epochs", type=int, help="(default: 50 with --enhancers, otherwise 4)")
    parser.add_argument(
        "--lr", type=float, help="AdamW's (default: ultralytics' choice; 2e-5 for the built-in)"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first one (default: 0)")
    parser.add_argument("--device", default=_device())
    default = Path("runs") / _name(program).split()[-1]
    parser.add_argument("--out", type=Path, help=f"(default: {default}; detection/detectors/weights)")
    protocol = parser.add_argument_group("the protocol")
    protocol.add_argument("--enhancers", help="by name, or module:callable, e.g. raw,clahe,glare")
    protocol.add_argument(
        "--test", type=Path, help="another set to measure on (default: every fifth image of --data)"
    )
    protocol.add_argument(
        "--split",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="of ExDark: train, val, test or a file of names (default: train test)",
    )
    protocol.add_argument(
        "--levels", default="none", help="how dark to make the images (default: as they are)"
    )
    protocol.add_argument("--seeds", type=int, default=1, help="trainings per enhancer (default: 1)")
    protocol.add_argument("--imgsz", type=int, default=640, help="pixels the detector sees (default: 640)")
    protocol.add_argument("--batch", type=int, default=16, help="(default: 16)")
    args = parser.parse_args(arguments)
    if args.enhancers is None and args.weights is None:
        parser.error("--enhancers for the protocol, or --weights to make the built-in detector from")
    with _told(program, goes_on=False):
        if args.enhancers is None:
            out = args.out or WEIGHTS
            epochs, lr = args.epochs or 4, args.lr or 2e-5
            make_built_in(args.data, args.weights, epochs, lr, args.seed, args.device, out)
            return
        levels = () if args.levels == "none" else tuple(args.levels.split(","))
        training, testing = training_and_testing(args.data, test=args.test, split=args.split, levels=levels)
        enhancers = {name: enhancer(name, args.device) for name in args.enhancers.split(",")}
        seeds = range(args.seed, args.seed + args.seeds)
        how = Protocol(args.epochs or 50, args.lr, args.imgsz, args.batch, seeds, args.device)
        compare(training, testing, enhancers, args.weights, how, args.out or default)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "bench": bench,
    "restore": restore,
    "finetune": finetune,
}


def _parser(program: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python {program}", description=description)


def _name(program: str) -> str:
    """Return the name of a program: ``experiments/a.py`` -> ``a``, ``-m detection b`` -> ``detection b``."""
    return Path(program).stem.removeprefix("-m ")


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _command(program: str, arguments: Sequence[str] | None) -> str:
    return command(program, sys.argv[1:] if arguments is None else arguments)


@contextmanager
def _told(program: str, *, goes_on: bool = True) -> Iterator[None]:
    """End the process with a line for an error that a user can do something about.

    A command that `goes_on` continues where it was when it is started again.
    """
    sys.path.append(os.getcwd())  # modules named in an argument are found here
    try:
        yield
        _leave()
    except (ValueError, OSError, ImportError, FaultError) as error:
        sys.exit(f"{_name(program)}: {error}")
    except KeyboardInterrupt:
        print(
            f"{_name(program)}: stopped" + goes_on * "; the same command goes on from here", file=sys.stderr
        )
        sys.exit(130)


def _join(args: argparse.Namespace) -> bool:
    """Join the other processes of ``accelerate launch`` or ``torchrun``, and tell whether this one is the first.

    Each process computes on its own GPU, where there are any.
    """
    if all(int(os.environ.get(name, 1)) == 1 for name in _PROCESSES):
        return True
    from accelerate import PartialState

    # A long timeout, since a process whose share was done by an earlier run waits for the others.
    state = PartialState(cpu=args.device == "cpu", timeout=timedelta(days=7))
    if args.device == "cuda":
        args.device = str(state.device)
    return bool(state.is_main_process)


def _leave() -> None:
    """Wait for the other processes: the connection breaks, for those still at work, when one of them is gone."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def _check_device(name: str) -> None:
    """Raise ValueError, with torch's reason, unless torch can compute on a device."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"Expected argument `device` to be one that torch has but got {name!r}: {one_line(error)}"
        ) from error


def _lpips(file: Path | str | None, device: str) -> list[Metric]:
    if file is None:
        return []
    return [lpips(LPIPS(None if file == _DOWNLOAD else file).to(device))]


def _has(data: Dataset, *, references: bool) -> bool:
    """Tell whether some images have a reference, or have none."""
    return any((sample.reference is not None) == references for sample in data.samples)


def _tell_faults(data: Dataset, first: bool) -> None:
    for fault in data.faults if first else ():
        print(f"Fault: {fault}", flush=True)


def _by_name(names: str, build: Callable[[str], T]) -> dict[str, T]:
    """Build what a list of names stands for, by titles without folders unless only those tell two names apart."""
    typed = names.split(",")
    shown = [portable(name) for name in typed]
    titles = shown if len(set(shown)) == len(shown) else typed
    return {title: build(name) for title, name in zip(titles, typed, strict=True)}


def _leakage(results: Results, *, by_set: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Lines on test images that the weights were trained on, and the same for the JSON, by enhancer.

    By set it is also counted how many of the scenes these are, none of them too.
    """
    samples = [results.dataset.samples[number] for number in results.samples]
    lines, found = find_leakage(samples, results.enhancers)
    if by_set:
        lines += scenes_seen(samples, found)
    return lines, {
        name: [{"file": str(o.file), "trained": o.trained, "by": o.by, "bits": o.bits} for o in overlaps]
        for name, overlaps in found.items()
    }


def _made_with(
    typed: str, results: Results, detectors: Mapping[str, Detector] | None = None
) -> dict[str, Any]:
    def identities(named: Mapping[str, object]) -> dict[str, str | None]:
        return {name: getattr(one, "identity", None) for name, one in named.items()}

    used, of = len(results.samples), len(results.dataset) + results.dataset.left_out
    return {
        "command": typed,
        "versions": versions(),
        "data": {"sha256": results.fingerprint, "used": used, "of": of},
        **({"detectors": identities(detectors)} if detectors else {}),
        "enhancers": identities(results.enhancers),
    }
