"""Train the built-in detector: yolo26n with ExDark's twelve classes, a little further on clean photographs.

No image is darkened or enhanced here, so the detector favours no enhancer. Images with an even number in
their name are trained on, those with an odd number are measured on (COCO mAP by pycocotools, against the same
rows of yolo26n as it came). The result goes to ``detection/weights/``: fp16 safetensors, a YAML with the
architecture, and a card.

    python experiments/finetune_detector.py --weights yolo26n.pt --data coco_dark_source
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import save as to_bytes

from detection import EXDARK_CLASSES, Dataset, darken, evaluate, read_yolo
from detection.enhancers import raw
from detection.yolo import WEIGHTS, YOLO, YOLODetector, built_in, keep_exdark_classes, train
from glare.data.degrade import LEVELS

NAME = "yolo26n-exdark"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="yolo26n.pt; a pickle, so use one you trust")
    parser.add_argument("--data", required=True, help="YOLO folder with COCO's eighty classes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args()

    data = read_yolo(args.data)
    training, measuring = half(data, even=True), half(data, even=False)
    start = YOLO(args.weights, task="detect")
    keep_exdark_classes(start.model)
    with tempfile.TemporaryDirectory() as work:
        trained = train(
            start.model,
            data=str(write_yolo(training, Path(work) / "data")),
            epochs=args.epochs,
            lr0=args.lr,
            optimizer="AdamW",
            warmup_epochs=0,
            batch=16,
            nbs=16,  # a step for every batch
            freeze=10,  # the backbone has seen all of COCO; this half has some seventy photographs
            mosaic=0.0,
            # Ultralytics' own draws of brightness, blur and CLAHE stay out: no enhancer is to be favoured.
            hsv_h=0.0,
            hsv_s=0.0,
            hsv_v=0.0,
            augmentations=[],
            seed=args.seed,
            workers=0,
            device=args.device,
            val=False,
            plots=False,
            project=work,
            name="train",
        )
    args.out.mkdir(parents=True, exist_ok=True)
    save(trained, args.out)

    before = measure(YOLODetector(start, args.device), measuring)
    after = measure(built_in(args.device, args.out), measuring)
    card(args, training, measuring, before, after)
    print((args.out / "README.md").read_text(encoding="utf-8"))


def half(data: Dataset, *, even: bool) -> Dataset:
    chosen = (s for s in data.samples if (int(Path(s.name).stem) % 2 == 0) == even)
    return replace(data, samples=tuple(chosen))


def write_yolo(data: Dataset, folder: Path) -> Path:
    """Write a set as ultralytics reads it and return the YAML.

    Its validation images are the training images: ultralytics wants some, and the measuring half stays out.
    """
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for sample in data.samples:
        image = sample.load()
        height, width = image.shape[:2]
        name = Path(sample.name).stem
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        lines = [
            f"{label} {(x1 + x2) / 2 / width:.6f} {(y1 + y2) / 2 / height:.6f} "
            f"{(x2 - x1) / width:.6f} {(y2 - y1) / height:.6f}\n"
            for (x1, y1, x2, y2), label in zip(sample.boxes, sample.labels, strict=True)
        ]
        (folder / "labels" / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    described = {
        "path": str(folder),
        "train": "images",
        "val": "images",
        "names": list(data.classes),
    }
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(described), encoding="utf-8")
    return file


def save(network: Any, out: Path) -> None:
    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in network.state_dict().items()
    }
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError("Expected finite weights but got some that fp16 cannot hold.")
    (out / f"{NAME}.safetensors").write_bytes(to_bytes(tensors))
    keys = ("scale", "end2end", "reg_max", "scales", "backbone", "head")
    architecture = {key: network.yaml[key] for key in keys} | {"nc": 80, "names": list(EXDARK_CLASSES)}
    text = yaml.safe_dump(architecture, sort_keys=False, default_flow_style=None)
    (out / f"{NAME}.yaml").write_text(
        "# The architecture of yolo26n, AGPL-3.0. Built with COCO's 80 classes, of which `names` are kept.\n"
        + text,
        encoding="utf-8",
    )


def measure(detector: YOLODetector, data: Dataset) -> dict[str, tuple[float, float]]:
    """mAP50 and mAP50-95 of the untouched images, clean and at each light level."""
    table = evaluate(data, detector, {"raw": raw}, progress=True)
    dark = evaluate(darken(data, *LEVELS), detector, {"raw": raw}, progress=True)
    scores = {"clean": (table["mAP50"][0], table["mAP50-95"][0])}
    return scores | {r["light"]: (r["mAP50"], r["mAP50-95"]) for r in dark.to_dict("records")}


def card(
    args: argparse.Namespace,
    training: Dataset,
    measuring: Dataset,
    before: dict[str, tuple[float, float]],
    after: dict[str, tuple[float, float]],
) -> None:
    sizes = [
        f"{len(part)} clean photographs with {sum(len(s.boxes) for s in part.samples)} boxes"
        for part in (training, measuring)
    ]
    rows = "".join(
        f"| {light} | {before[light][0]:.3f} | {after[light][0]:.3f} | "
        f"{before[light][1]:.3f} | {after[light][1]:.3f} |\n"
        for light in after
    )
    command = (
        f"--weights {Path(args.weights).name} --data {Path(args.data).name} "
        f"--epochs {args.epochs} --lr {args.lr} --seed {args.seed}"
    )
    text = f"""# yolo26n-exdark

The built-in detector: [yolo26n](https://docs.ultralytics.com/models/yolo26) by Ultralytics with the twelve
classes of ExDark ({", ".join(EXDARK_CLASSES)}),
fp16, read without unpickling.

**Licence: AGPL-3.0** (`LICENSE` in this folder), as yolo26n's weights are. The rest of the project is
Apache-2.0.

**Training.** Started from `yolo26n.pt`: of its eighty COCO classes the rows of these twelve are kept in the
last 1×1 convolution of both heads. Then ultralytics' own trainer (AdamW, {args.epochs} epochs, learning rate
{args.lr}, backbone frozen) on {sizes[0]}, the even numbers of
`{Path(args.data).name}` (photographs of COCO train2017 in YOLO's layout). No image was
darkened or enhanced, so it favours no enhancer.

    python experiments/finetune_detector.py {command}

**Measured** on {sizes[1]}, the odd numbers: COCO mAP by pycocotools over
the twelve classes, at 640 pixels, no enhancer; the darkened rows are `detection.darken` with seed 0. Both
columns saw the same pixels. yolo26n itself was trained on COCO train2017, so the level says little; the
difference is what counts, and with so few photographs one below about six points is not resolved.

| light | mAP50 yolo26n | mAP50 this | mAP50-95 yolo26n | mAP50-95 this |
| --- | --- | --- | --- | --- |
{rows}"""
    (args.out / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
