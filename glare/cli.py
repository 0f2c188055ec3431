"""The command line: ``glare enhance | demo | train | evaluate | convert | export | info``."""

from __future__ import annotations

import argparse
import errno
import os
import re
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import glare
from glare import weights
from glare.batch import enhance_files, find_jobs
from glare.cluster import enhance_on_ray, find_url_jobs, is_url
from glare.evaluate import FIGURES, evaluate_pairs
from glare.export import to_onnx
from glare.files import sha256
from glare.joined import join_detector, read_detector
from glare.official import from_official
from glare.precision import add_dtype
from glare.training.cli import add_train_parser
from glare.transform import GLAREEnhance


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    That is 0, 1 for an error (told on stderr), 2 for wrong usage, or 130 for a stop from the keyboard.
    """
    args = _parser().parse_args(argv)
    try:
        return int(args.run(args))
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        print(f"glare {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"glare {args.command}: stopped", file=sys.stderr)
        return 130  # as in shells


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="glare", description="Low-light image enhancement with GLARE.")
    parser.add_argument("--version", action="version", version=f"glare {glare.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    enhance = commands.add_parser("enhance", help="enhance images and videos")
    enhance.add_argument(
        "input",
        nargs="+",
        metavar="IN",
        help="images, videos, folders, patterns in quotes; with ray also URLs",
    )
    enhance.add_argument(
        "output", metavar="OUT", help="a folder, or a file for a single file; with ray also a URL"
    )
    enhance.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who does it: this process or a Ray cluster",
    )
    enhance.add_argument("--weights", default="glare-tiny", help="name, folder, file or hub id (%(default)s)")
    enhance.add_argument("--fidelity", type=float, default=1.0, help="0 (codebook) to 2 (input); %(default)s")
    enhance.add_argument("--batch", type=int, default=1, help="images of a size at once (%(default)s)")
    enhance.add_argument("--resume", action="store_true", help="leave what is there already and whole")
    enhance.add_argument(
        "--scale", type=float, default=1.0, help="share of the size that the network sees (%(default)s)"
    )
    enhance.add_argument("--no-steady", action="store_true", help="videos: each frame as an image of its own")
    add_dtype(enhance, ("float32", "bfloat16"), "what the network computes in", formerly="--bf16")
    enhance.add_argument("--tile", type=_tile, default="auto", help="auto, none or pixels (%(default)s)")
    device = "cpu"
    if torch.cuda.is_available():  # each process of a machine takes a GPU of its own
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    enhance.add_argument("--device", type=_device, default=device, help="(%(default)s)")
    enhance.set_defaults(run=run_enhance)

    demo = commands.add_parser(
        "demo", help="a page in the browser: enhance a photograph, and see boxes in it"
    )
    demo.add_argument("--weights", default="glare-tiny", help="name, folder, file or hub id (%(default)s)")
    demo.add_argument(
        "--detector",
        default="yolo26n-exdark",
        help="a name or checkpoint of ultralytics', a name of torchvision's, MODULE:CALLABLE (%(default)s)",
    )
    demo.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to let others in (%(default)s)")
    demo.add_argument("--port", type=int, default=7860, help="0 for any that is free (%(default)s)")
    demo.set_defaults(run=run_demo, device=device)

    convert = commands.add_parser("convert", help="turn official checkpoints into a folder of weights")
    convert.add_argument("netg", type=Path, metavar="net_G.pth", help="the official stage-3 network")
    convert.add_argument("vqgan", type=Path, metavar="vqgan.pkl", help="the official VQGAN")
    convert.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    convert.set_defaults(run=run_convert)

    evaluate = commands.add_parser("evaluate", help="PSNR and SSIM on pairs of images")
    evaluate.add_argument("pairs", type=Path, metavar="PAIRS", help="folder with low/ and high/")
    evaluate.add_argument(
        "--weights", default="glare-tiny", help="name, folder, file or hub id (%(default)s)"
    )
    evaluate.add_argument("--device", type=_device, default=device, help="(%(default)s)")
    evaluate.set_defaults(run=run_evaluate)

    export = commands.add_parser("export", help="write the network as an ONNX file")
    export.add_argument("--onnx", type=Path, required=True, metavar="OUT.onnx", help="the file to write")
    export.add_argument("--weights", default="glare-tiny", help="name, folder, file or hub id (%(default)s)")
    export.add_argument(
        "--detector",
        type=Path,
        metavar="YOLO.onnx",
        help="a detector that follows in the same file: image in, boxes out",
    )
    export.add_argument("--fidelity", type=float, default=1.0, help="fixed in the file; %(default)s")
    add_dtype(export, ("float32", "float16"), "of the convolutions and their weights", formerly="--fp16")
    export.set_defaults(run=run_export)

    info = commands.add_parser("info", help="what a set of weights is")
    info.add_argument("--weights", default="glare-tiny", help="name, folder, file or hub id (%(default)s)")
    info.set_defaults(run=run_info)

    add_train_parser(commands.add_parser("train", help="train a stage"))
    return parser


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(
            f"cannot compute on {name!r}: {str(error).splitlines()[0]}"
        ) from error
    return torch.device(name)


def _tile(text: str) -> Literal["auto"] | int | None:
    if text == "auto":
        return "auto"
    try:
        return None if text == "none" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected auto, none or an integer but got {text!r}") from None


def run_enhance(args: argparse.Namespace) -> int:
    """Enhance files, and list at the end those that could not be read."""
    enhance = GLAREEnhance(
        args.weights,
        fidelity=args.fidelity,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        tile=args.tile,
        scale=args.scale,
    )
    how = {"batch": args.batch, "resume": args.resume, "steady": not args.no_steady}
    if args.engine == "ray":
        urls = find_url_jobs(args.input, args.output)
        count, failed = len(urls), enhance_on_ray(enhance, urls, **how)
    else:
        for name in filter(is_url, (*args.input, args.output)):
            raise ValueError(
                f"Expected a file or a folder but got {name}: --engine ray reads and writes URLs."
            )
        jobs = find_jobs(args.input, Path(args.output))
        count, failed = len(jobs), enhance_files(enhance, jobs, **how)
    if failed and int(os.environ.get("RANK", 0)) == 0:
        lines = (f"  {line}" for line in failed)
        print(f"{len(failed)} of {count} files failed:", *lines, sep="\n", file=sys.stderr)
    return 1 if failed else 0


def run_demo(args: argparse.Namespace) -> int:
    """Serve the page until the process is told to stop."""
    with _listen(args.host, args.port) as listening:  # before all that takes long to load
        print("Loading the page, the weights and the detector ...", file=sys.stderr, flush=True)
        # By name: the page shows a detector, so it is on the detector side, of which nothing here knows.
        import_module("detection.demo").serve(args.weights, args.detector, listening, args.device)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OverflowError as error:
        raise ValueError(f"Expected argument `port` to be in [0, 65535] but got {port}.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port {port} of {host} is taken: choose another one with --port.") from error
        raise OSError(f"cannot listen on port {port} of {host}: {error.strerror}.") from error


def run_convert(args: argparse.Namespace) -> int:
    """Convert official checkpoints, in float32 as they are."""
    model = from_official(_read_checkpoint(args.netg), _read_checkpoint(args.vqgan))
    path = weights.save(model, args.output, dtype=torch.float32)
    sources = "\n".join(f"- {p.name}, sha256 {sha256(p)}" for p in (args.netg, args.vqgan))
    card = f"# GLARE, converted official checkpoints\n\nConverted by `glare convert` from\n\n{sources}\n\n"
    card += "The terms are those of the checkpoints' authors: https://github.com/LowLevelAI/GLARE\n"
    (args.output / weights.CARD).write_text(card, encoding="utf-8")
    print(path)
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Measure untouched images, gamma and GLARE against the references, and what the stages do."""
    found = evaluate_pairs(weights.load(args.weights).to(args.device), args.pairs)
    print(f"{len(found.images)} pairs of {args.pairs}")
    print(f"{'':12}" + "".join(f"{name:>14}" for name in FIGURES))
    for method, row in found.methods.items():
        print(f"{method:12}" + "".join(f"{row[name]:14.3f}" for name in FIGURES))
    print()
    for name, value in found.stages.items():
        print(f"{name:32}{value:10.3f}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the network as an ONNX file, alone or with a detector behind it."""
    if args.detector is not None:
        read_detector(args.detector)  # what cannot be joined is told before the minute that tracing takes
    print("Tracing the network, which takes two minutes of a core ...", file=sys.stderr)
    model, dtype = weights.load(args.weights), getattr(torch, args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(folder) / "network.onnx" if args.detector is not None else args.onnx
        to_onnx(model, alone, fidelity=args.fidelity, dtype=dtype)
        if args.detector is not None:
            join_detector(alone, args.detector, args.onnx)
    print(args.onnx)
    return 0


def run_info(args: argparse.Namespace) -> int:
    """Print the configuration, the parameters, the terms and the card of a set of weights."""
    path = weights.find(args.weights)
    model = weights.load(path)
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    print(f"weights     {path}")
    print(f"sha256      {sha256(path)}")
    print(f"parameters  {sum(parameters.values()):,}")
    for name, count in parameters.items():
        print(f"  {name:<18}{count:>12,}")
    print("configuration")
    for name, value in model.config.to_dict().items():
        print(f"  {name:<18}{value!s:>12}")
    card = path.with_name(weights.CARD)
    print(f"terms       {weights.terms(path) or ('see the card' if card.is_file() else 'unknown')}")
    print(f"card        {card if card.is_file() else 'none'}")
    return 0


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a checkpoint, plain or under one name such as ``params``, without running code from it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # a damaged file may lead the unpickler to any error
        # Torch's own message advises to read the file all the same, which is unsafe for a file from elsewhere.
        asked = re.search(r"GLOBAL [\w.]+", str(error))
        reason = f"it asks for {asked[0]}" if asked else type(error).__name__
        raise ValueError(
            f"{path} is refused: it is damaged or holds more than tensors, and reading that could run code "
            f"that came with it ({reason})."
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"Expected {path} to map names to tensors but it holds a {type(content).__name__}.")
    states = [value for value in (content, *content.values()) if _is_state(value)]
    if len(states) != 1:
        raise ValueError(f"Expected {path} to map names to tensors but it has {sorted(map(str, content))}.")
    state: Mapping[str, Tensor] = states[0]
    return state


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())
