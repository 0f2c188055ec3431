import csv
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detection import EXDARK_CLASSES, darken, detector, evaluate, read_coco, sample_set
from detection.enhancers import enhancer
from glare import GLARE, weights
from glare.data.overlap import fingerprints
from tests.scripts import EXPERIMENTS, load_script

SCRIPT = EXPERIMENTS / "detect_exdark.py"


@pytest.fixture(scope="module")
def main() -> Callable[[list[str]], None]:
    run: Callable[[list[str]], None] = load_script("detect_exdark").main
    return run


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A COCO JSON of two photographs beside their files, and a third one that is broken."""
    file = Path(str(importlib.util.find_spec("detection.data.builtin").origin)).with_name("annotations.json")
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


def test_photographs_that_the_weights_were_trained_on_are_told(
    main: Callable[[list[str]], None], two: Path, tmp_path: Path
) -> None:
    seen = [two / "chelsea.png"]
    network = weights.save(
        GLARE("tiny"), tmp_path / "network", history=[{"stage": "fusion", "hashes": fingerprints(seen)}]
    )
    out = tmp_path / "out"
    main(
        f"--data {two / 'annotations.json'} --enhancers raw,glare={network} --levels dark --device cpu "
        f"--out {out}".split()
    )
    (line,) = [line for line in (out / "results.md").read_text().splitlines() if "was trained on" in line]
    assert "trained on 1 of the 2 test images" in line
    assert seen[0].name in line
    (overlaps,) = json.loads((out / "results.json").read_text())["overlaps"].values()
    assert [Path(overlap["file"]).name for overlap in overlaps] == [seen[0].name]


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
    assert not any("NIQE" in column for column in rows[0])
    assert [(row["light"], row["enhancer"]) for row in rows] == [
        ("mild", "raw"),
        ("mild", "gamma"),
        ("extreme", "raw"),
        ("extreme", "gamma"),
        ("all", "raw"),
        ("all", "gamma"),
    ]
    assert [(row["images"], row["boxes"]) for row in rows] == [("2", "3")] * 4 + [("4", "6")] * 2

    night = darken(read_coco(two / "annotations.json"), "mild", "extreme", seed=3)
    table = evaluate(night, {name: enhancer(name) for name in ("raw", "gamma")}, detector())
    for row, expected in zip(rows, table.to_dict("records"), strict=True):
        for column in ("mAP50", "mAP50-95", "PSNR", "SSIM"):
            assert float(row[column]) == pytest.approx(expected[column], abs=0.006)
        assert float(row["ms"]) >= 0

    text = (out / "results.md").read_text()
    assert text.splitlines()[0].startswith("| light | enhancer | mAP50 | against raw | mAP50-95 | VOC_AP50 |")
    assert "| light | enhancer | AR | AP_small | AP_medium | AP_large | AP50 Bicycle |" in text
    assert re.search(r"\| mild \| gamma \| [01]\.\d{4} \| [+-]0\.\d{3} too few images \|", text)
    assert "too few images that there are less than 10 photographs" in text
    assert "has a chance of 5 %" not in text  # to be wrong, as there is no verdict
    assert "2 images with 3 boxes" in text
    assert "Used 4 of 6 images" in text
    assert "- yolo26n-exdark: 640 pixels on the longer side" in text
    assert "end-to-end head without NMS" in text
    assert "Classes asked for: Bicycle, " in text
    assert "Fault: broken.png" in text
    printed = capsys.readouterr().out
    assert "extreme" in printed
    assert "Fault: broken.png" in printed

    assert sorted(file.name for file in out.iterdir()) == [
        "by_light.pdf",
        "by_light.png",
        "cache",
        "chelsea.jpg",
        "coffee.jpg",
        "precision_recall.pdf",
        "precision_recall.png",
        "report.html",
        "results.csv",
        "results.json",
        "results.md",
        "results.tex",
    ]
    assert r"mild & gamma & " in (out / "results.tex").read_text()
    content = json.loads((out / "results.json").read_text())
    assert content["command"].startswith(
        "python experiments/detect_exdark.py --data annotations.json --enhancers"
    )
    assert len(content["data"].pop("sha256")) == 64
    assert content["data"] == {"used": 4, "of": 6}
    assert content["versions"].keys() > {"torch", "pycocotools"}
    assert "ultralytics" in content["detectors"]["yolo26n-exdark"]  # its weights and its program
    assert content["enhancers"]["gamma"].startswith("gamma ")
    assert [(row["light"], row["mAP50"]) for row in content["rows"]][:2] == [
        ("mild", pytest.approx(float(row["mAP50"]), abs=1e-4)) for row in rows[:2]
    ]
    page = (out / "report.html").read_text()
    assert page.count("<table>") == 2
    assert page.count('class="slider"') == 4
    assert "Fault: broken.png: cannot identify" in page
    for name in ("results.json", "results.md", "results.tex", "report.html"):
        assert str(tmp_path) not in (out / name).read_text()
    with Image.open(out / "coffee.jpg") as picture:
        assert picture.width == 3 * 400  # labelled, raw, gamma
        assert picture.height > 2 * 260  # two lights of a 600×400 photograph


def test_several_draws_of_the_noise(main: Callable[[list[str]], None], two: Path, tmp_path: Path) -> None:
    data, out = two / "annotations.json", tmp_path / "out"
    main(f"--data {data} --enhancers raw --levels dark --seed 3 --draws 2 --device cpu --out {out}".split())
    (row,) = read(out / "results.csv")
    night = darken(read_coco(data), "dark", seed=3, draws=2)
    (expected,) = evaluate(night, {"raw": enhancer("raw")}, detector()).to_dict("records")
    assert (row["images"], row["boxes"]) == ("4", "6")
    for column in ("mAP50", "PSNR"):
        assert float(row[column]) == pytest.approx(expected[column], abs=0.006)
    assert "seeds 3 to 4, cpu." in (out / "results.md").read_text()
    with Image.open(out / "coffee.jpg") as picture:
        assert picture.height < 2 * 260  # the first draw alone


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("--levels none --draws 2", "Expected --draws 1 where photographs are not darkened"),
        ("--levels dark --draws 0", "`draws` to be positive but got 0"),
        ("--levels dark --draws 2 --enhancers raw,folder:{}", "Expected --draws 1 with folder:"),
    ],
)
def test_draws_that_make_no_sense(main: Callable[[list[str]], None], two: Path, how: str, told: str) -> None:
    with pytest.raises(SystemExit, match=told):
        main([*f"--data {two / 'annotations.json'} --device cpu".split(), *how.format(two).split()])


def test_names_are_kept_apart_and_old_charts_go(
    main: Callable[[list[str]], None], ours: Path, two: Path
) -> None:
    content = json.loads((two / "annotations.json").read_text())
    content["images"].append({"id": 10, "file_name": "chelsea.jpg"})
    (two / "annotations.json").write_text(json.dumps(content))
    Image.open(two / "chelsea.png").save(two / "chelsea.jpg")
    out = ours / "out"
    out.mkdir()
    for name in ("by_light-gone.png", "precision_recall-gone.pdf", "by_light-mine.txt", "mine.png"):
        (out / name).write_text("")
    main(f"--data {two} --levels none --enhancers raw {ours_in} --out out".split())
    files = {file.name for file in out.iterdir()}
    assert files >= {"chelsea.jpg.jpg", "chelsea.png.jpg", "coffee.jpg", "by_light-mine.txt", "mine.png"}
    assert not files & {"by_light-gone.png", "precision_recall-gone.pdf"}
    content["images"] = [image for image in content["images"] if image["id"] == 5]
    content["annotations"] = [mark for mark in content["annotations"] if mark["image_id"] == 5]
    (two / "annotations.json").write_text(json.dumps(content))
    (out / "mine.jpg").write_text("")
    main(f"--data {two} --levels none --enhancers raw {ours_in} --out out".split())
    kept = {"coffee.jpg", "mine.jpg"}
    assert {file.name for file in out.iterdir() if file.suffix == ".jpg"} == kept
    assert json.loads((out / "results.json").read_text())["pictures"] == ["coffee.jpg"]


def test_dark_photographs_as_they_are(main: Callable[[list[str]], None], two: Path, tmp_path: Path) -> None:
    data = two / "annotations.json"
    main(f"--data {data} --enhancers raw --levels none --device cpu --out {tmp_path}".split())
    (row,) = read(tmp_path / "results.csv")
    assert row["light"] == "as stored"
    assert row["PSNR"] == row["SSIM"] == ""
    assert float(row["NIQE (own model)"]) > 0  # where there is no reference
    assert "Against raw" not in (tmp_path / "results.md").read_text()  # there is nothing else


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
    assert [(row["light"], row["images"]) for row in rows] == [
        ("Screen", "1"),
        ("Twilight", "1"),
        ("all", "2"),
    ]
    assert all(float(row["mAP50"]) == 1 for row in rows)
    text = (tmp_path / "out" / "results.md").read_text()
    assert "Each row rests on 1 images with 1 boxes: ExDark, test." in text
    assert "Used 2 of 3 images" in text
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


OURS = """
import os
import numpy as np
from detection import Detections

def lift(image):
    with open("pids", "a") as file:
        file.write(f"{os.getpid()} ")
    return np.where(image > 30, image, image // 2 + 40).astype(np.uint8)

def fails_on_coffee(image):
    if image.shape[:2] == (400, 600):
        raise RuntimeError("no coffee")
    return image

class Halves:
    names = ("cat", "dining table", "cup")
    def __call__(self, images):
        found = []
        for image in images:
            height, width, _ = image.shape
            boxes = np.array([[0, 0, width, height], [width * image.mean() / 255, 0, width, height]])
            found.append(Detections(boxes, np.array([0.4, 0.6]), np.array([len(image) % 3, 0])))
        return found

class Broken(Halves):
    def __call__(self, images):
        raise RuntimeError("no luck")
"""


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of ours, to be run in."""
    (tmp_path / "ours_for_detect_exdark.py").write_text(OURS)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("ours_for_detect_exdark", None)


ours_in = "--detector ours_for_detect_exdark:Halves --device cpu"


def test_two_processes_make_the_table_of_one(
    main: Callable[[list[str]], None], ours: Path, two: Path
) -> None:
    module = "ours_for_detect_exdark"
    words = f"--data {two} --levels mild,extreme {ours_in} --enhancers raw,gamma,{module}:lift".split()
    # As accelerate itself does, which starts several on GPUs alone.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launch, str(SCRIPT), *words, "--out", "shared"],
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])},
    )
    assert len(set((ours / "pids").read_text().split())) == 2  # each had its share
    main([*words, "--out", "alone"])
    shared, alone = (read(ours / name / "results.csv") for name in ("shared", "alone"))
    for row, expected in zip(shared, alone, strict=True):
        for column in ("ms", "detector_ms", "MB", "detector_MB"):
            del row[column], expected[column]
        assert row == expected
    assert len(alone) == 9
    assert "Fault: broken.png" in (ours / "shared" / "results.md").read_text()
    assert (ours / "shared" / "chelsea.jpg").is_file()
    assert (ours / "shared" / "coffee.jpg").is_file()
    # What two have made, one need not make again: the table has their times.
    main([*words, "--out", "again", "--cache", "shared/cache"])
    again = read(ours / "again" / "results.csv")
    assert again == read(ours / "shared" / "results.csv")


def test_faults_and_several_detectors(
    main: Callable[[list[str]], None], ours: Path, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = "ours_for_detect_exdark"
    words = f"--data {two} --levels dark --device cpu --enhancers raw,{module}:fails_on_coffee --out out"
    main([*words.split(), "--detector", f"yolo26n-exdark,{module}:Halves"])
    rows = read(ours / "out" / "results.csv")
    assert [(row["detector"], row["images"]) for row in rows] == [
        ("yolo26n-exdark", "1"),
        ("yolo26n-exdark", "1"),
        (f"{module}:Halves", "1"),
        (f"{module}:Halves", "1"),
    ]
    printed = capsys.readouterr().out
    assert (
        f"Fault: coffee.png (dark): enhancer `{module}:fails_on_coffee`: RuntimeError: no coffee" in printed
    )
    assert "Used 1 of 3 images" in printed
    assert f"By day, before darkening: {module}:Halves: mAP50" in printed
    assert (ours / "out" / "by_light-ours_for_detect_exdark_Halves.png").is_file()


PERSONS = """
import numpy as np
from detection import Detections

class Persons:
    names = ("person", "dog")
    def __call__(self, images):
        box = np.array([[0.0, 0.0, 50.0, 100.0], [0.0, 0.0, 50.0, 100.0]])
        # Finds nobody in the dark.
        count = [2 if image.mean() > 60 else 0 for image in images]
        return [Detections(box[:n], np.array([0.9, 0.8])[:n], np.array([0, 1])[:n]) for n in count]

def lift(image):
    return np.maximum(image, 90)
"""


def test_persons_by_their_faces(main: Callable[[list[str]], None], ours: Path) -> None:
    (ours / "persons_for_detect_exdark.py").write_text(PERSONS)
    for folder in ("image", "label"):
        (ours / "darkface" / folder).mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (100, 100), (80, 80, 80) if number < 6 else (20, 20, 20)).save(
            ours / "darkface" / "image" / f"{number}.png"
        )
        (ours / "darkface" / "label" / f"{number}.txt").write_text("1\n20 10 30 20\n")
    module = "persons_for_detect_exdark"
    words = (
        f"--data darkface --detector {module}:Persons --enhancers raw,{module}:lift --device cpu --out out"
    )
    main([*words.split(), "--match", "face-in-person"])
    untouched, lifted = read(ours / "out" / "results.csv")
    assert (untouched["images"], untouched["faces"]) == ("12", "12")
    assert float(untouched["AP"]) == pytest.approx(51 / 101, abs=1e-4)  # half of the faces
    assert float(lifted["AP"]) == 1
    assert float(lifted["dAP"]) == pytest.approx(50 / 101, abs=1e-4)
    assert 0 < float(lifted["dAP_low"]) < float(lifted["dAP"]) < float(lifted["dAP_high"])
    assert lifted["verdict"] == "better"
    text = (ours / "out" / "results.md").read_text()
    assert "the centre of a labelled face lies in its upper half" in text
    assert "has also dog, not used" in text
    with pytest.raises(SystemExit, match="a set of faces for --match face-in-person but got Bicycle"):
        main(["--enhancers", "raw", *ours_in.split(), "--out", "out", "--match", "face-in-person"])


def test_dark_photographs_are_not_darkened(
    main: Callable[[list[str]], None], ours: Path, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("chelsea.png", "coffee.png"):
        with Image.open(two / name) as image:
            image.point(lambda value: value // 8).save(two / name)
    main(f"--data {two} --enhancers raw {ours_in} --out out".split())
    assert [row["light"] for row in read(ours / "out" / "results.csv")] == ["as stored"]
    text = (ours / "out" / "results.md").read_text()
    assert "dark already, their mean grey level is 0.05 of 1: they were not darkened." in text
    assert "By day" not in text
    main(f"--data {two} --enhancers raw {ours_in} --out out --levels mild".split())
    text = (ours / "out" / "results.md").read_text()
    assert "By day" not in text
    assert "As they were, before darkening: mAP50" in text
    assert "and were darkened further" in text
    assert "dark already" in capsys.readouterr().out


def test_classes_of_ones_own(main: Callable[[list[str]], None], ours: Path, two: Path) -> None:
    (ours / "names.txt").write_text("cups\ncat\nface\n")
    main(f"--data {two} --enhancers raw {ours_in} --levels none --out out --classes names.txt".split())
    (row,) = read(ours / "out" / "results.csv")
    assert {"AP50 cups", "AP50 cat", "AP50 face"} < row.keys()
    text = (ours / "out" / "results.md").read_text()
    assert "Classes asked for: cups, cat, face; the set has also" in text
    assert (
        "ours_for_detect_exdark:Halves has also dining table, not used, and lacks face; nobody has face."
        in text
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data {two}/missing", "there is no such file or folder"),
        ("--data {two}/annotations.json --images {two}/nowhere", "`images` to be a folder"),
        ("--data {two}/annotations.json --split val", "`split` with ExDark or YOLO's layout alone"),
        ("--enhancers raw,magic", "'magic'"),
        ("--enhancers no_such_module:enhance", "no_such_module"),
        ("--enhancers raw,onnx:{two}/gone.onnx", r"gone\.onnx"),
        ("--enhancers raw,folder:{two}/gone", "enhanced images in"),
        ("--detector no_such_module:Detector", "no_such_module"),
        ("--lpips {two}/gone.pth", r"gone\.pth"),
        ("--levels dusk", "mild, dark, extreme but got 'dusk'"),
        ("--detector {two}/missing.pt --enhancers raw", r"a checkpoint at .*missing\.pt but there is none"),
        ("--detector nosuch.pt --enhancers raw", r"a checkpoint at nosuch\.pt but there is none"),
        ("--detector {two}/broken.pt --enhancers raw", r"a detector at .*broken\.pt but got stuck"),
        ("--detector {two}/broken.png --enhancers raw", r"a detector at .*broken\.png but got stuck"),
        (
            "--detector fasterrcnn_mobilenet_v3_large_fpn={two}/broken.pt",
            r"weights of fasterrcnn.* got stuck",
        ),
        (
            "--enhancers raw,glare={two}/broken.safetensors",
            r"broken\.safetensors .* is truncated or no safetensors file",
        ),
        ("--device nowhere", "`device` to be one that torch has but got 'nowhere'"),
    ],
)
def test_mistakes_are_named(
    main: Callable[[list[str]], None], two: Path, tmp_path: Path, arguments: str, message: str
) -> None:
    for name in ("broken.pt", "broken.safetensors"):
        shutil.copy(two / "broken.png", two / name)
    with pytest.raises(SystemExit, match=message):
        main(["--device", "cpu", "--out", str(tmp_path / "out"), *arguments.format(two=two).split()])


def test_a_detector_that_fails_is_told_at_the_start(
    main: Callable[[list[str]], None], ours: Path, two: Path
) -> None:
    detector = "--detector ours_for_detect_exdark:Broken"
    with pytest.raises(SystemExit, match="detector `ours_for_detect_exdark:Broken`: RuntimeError: no luck"):
        main(f"--data {two} --enhancers raw --device cpu --out out {detector}".split())


def test_nothing_readable(main: Callable[[list[str]], None], two: Path, tmp_path: Path) -> None:
    for name in ("chelsea.png", "coffee.png"):
        shutil.copy(two / "broken.png", two / name)
    with pytest.raises(SystemExit, match=r"at least one readable image.*chelsea\.png"):
        main(
            f"--data {two / 'annotations.json'} --enhancers raw --device cpu --out {tmp_path / 'out'}".split()
        )
