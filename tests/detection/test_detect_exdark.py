import csv
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detection import EXDARK_CLASSES, darken, detector, evaluate, read_coco, sample_set
from detection.enhancers import enhancer

SCRIPT = Path(__file__).parents[2] / "experiments" / "detect_exdark.py"


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], None]:
    spec = importlib.util.spec_from_file_location("detect_exdark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run: Callable[[list[str]], None] = module.main
    return run


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A COCO JSON of two photographs beside their files, and a third one that is broken."""
    file = Path(str(importlib.util.find_spec("detection.sample").origin)).with_name("annotations.json")
    content = json.loads(file.read_text())
    content["images"] = [image for image in content["images"] if image["id"] in (4, 5)]
    content["annotations"] = [mark for mark in content["annotations"] if mark["image_id"] in (4, 5)]
    content["images"].append({"id": 9, "file_name": "broken.png"})
    folder = tmp_path / "set"
    folder.mkdir()
    for sample in sample_set().samples[3:5]:
        Image.fromarray(sample.load()).save(folder / sample.name)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_two_photographs(
    main: Callable[[list[str]], None], two: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(
        f"--data {two / 'annotations.json'} --enhancers raw,gamma --levels mild,extreme --seed 3 "
        f"--device cpu --out {out}".split()
    )
    rows = read(out / "results.csv")
    assert list(rows[0])[:7] == ["light", "enhancer", "mAP50", "mAP50-95", "PSNR", "SSIM", "ms"]
    assert [(row["light"], row["enhancer"]) for row in rows] == [
        ("mild", "raw"),
        ("mild", "gamma"),
        ("extreme", "raw"),
        ("extreme", "gamma"),
    ]
    assert {(row["images"], row["boxes"]) for row in rows} == {("2", "3")}

    night = darken(read_coco(two / "annotations.json"), "mild", "extreme", seed=3)
    table = evaluate(night, detector(), {name: enhancer(name) for name in ("raw", "gamma")})
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        for column in ("mAP50", "mAP50-95", "PSNR", "SSIM"):
            assert float(row[column]) == pytest.approx(expected[column], abs=0.006)
        assert float(row["ms"]) >= 0

    text = (out / "results.md").read_text()
    assert text.splitlines()[0].startswith("| light | enhancer | mAP50 | mAP50-95 | PSNR | SSIM | ms |")
    assert "2 images with 3 boxes" in text
    assert "Fault: broken.png" in text
    printed = capsys.readouterr().out
    assert "extreme" in printed
    assert "Fault: broken.png" in printed

    assert sorted(file.name for file in out.iterdir()) == [
        "chelsea.jpg",
        "coffee.jpg",
        "results.csv",
        "results.md",
    ]
    with Image.open(out / "coffee.jpg") as picture:
        assert picture.width == 3 * 400  # labelled, raw, gamma
        assert picture.height > 2 * 260  # two lights of a 600×400 photograph


def test_dark_photographs_as_they_are(main: Callable[[list[str]], None], two: Path, tmp_path: Path) -> None:
    data = two / "annotations.json"
    main(f"--data {data} --enhancers raw --levels none --device cpu --out {tmp_path}".split())
    (row,) = read(tmp_path / "results.csv")
    assert row["light"] == "as stored"
    assert row["PSNR"] == row["SSIM"] == ""


def test_exdark_as_it_lies(main: Callable[[list[str]], None], exdark: Any, tmp_path: Path) -> None:
    exdark.add("Cat/a.png", listed="6 7 1 3")
    exdark.add("Cup/b.png", listed="8 10 1 3")
    exdark.add("Cup/c.png", listed="8 10 1 1")
    chelsea, coffee = sample_set().samples[3:5]
    for name, sample in {"Cat/a.png": chelsea, "Cup/b.png": coffee, "Cup/c.png": coffee}.items():
        Image.fromarray(sample.load()).save(exdark.root / "ExDark" / name)
        x1, y1, x2, y2 = sample.boxes[0]
        label = EXDARK_CLASSES[sample.labels[0]]
        exdark.annotate(f"{name}.txt", [f"{label} {x1:.0f} {y1:.0f} {x2 - x1:.0f} {y2 - y1:.0f}"])
    exdark.list("d.png 8 1 1 3")
    run = f"--data {exdark.root} --enhancers raw --device cpu --out {tmp_path / 'out'}".split()
    main(run)
    rows = read(tmp_path / "out" / "results.csv")
    assert [(row["light"], row["images"]) for row in rows] == [("Screen", "1"), ("Twilight", "1")]
    assert all(float(row["mAP50"]) == 1 for row in rows)
    text = (tmp_path / "out" / "results.md").read_text()
    assert "ExDark, test: 2 of 3 images" in text
    assert "Fault: Cup/d.png: there is no d.png" in text
    main([*run, "--split", "train", "--levels", "mild"])
    assert [row["light"] for row in read(tmp_path / "out" / "results.csv")] == ["mild"]


def test_built_in_set_says_what_it_is(
    main: Callable[[list[str]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(f"--enhancers raw --levels dark --device cpu --out {tmp_path}".split())
    for text in ((tmp_path / "results.md").read_text(), capsys.readouterr().out):
        assert "6 images with 16 boxes: six photographs, a demonstration and no measurement" in text
        assert "By day, before darkening: mAP50 0." in text
    assert len(list(tmp_path.glob("*.jpg"))) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data {two}/missing", "neither"),
        ("--data {two}/annotations.json --images {two}/nowhere", "`images` to be a folder"),
        ("--data {two}/annotations.json --split val", "`split` with ExDark alone"),
        ("--enhancers raw,magic", "'magic'"),
        ("--enhancers no_such_module:enhance", "no_such_module"),
        ("--levels dusk", "mild, dark, extreme but got 'dusk'"),
        ("--detector {two}/missing.pt --enhancers raw", r"missing\.pt"),
    ],
)
def test_mistakes_are_named(
    main: Callable[[list[str]], None], two: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        main([*arguments.format(two=two).split(), "--device", "cpu", "--out", str(tmp_path / "out")])


def test_nothing_readable(main: Callable[[list[str]], None], two: Path, tmp_path: Path) -> None:
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(two / "broken.png", two / name)
    with pytest.raises(SystemExit, match=r"at least one readable image.*chelsea\.png"):
        main(
            f"--data {two / 'annotations.json'} --enhancers raw --device cpu --out {tmp_path / 'out'}".split()
        )
