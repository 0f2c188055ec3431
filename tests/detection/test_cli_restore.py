import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lpips
import pytest
import torch
from PIL import Image

from detection import Dataset, sample_set, write_darkened
from glare import GLARE, weights
from glare.data.overlap import fingerprints
from tests.scripts import EXPERIMENTS, load_script

Main = Callable[[list[str]], None]


def script(name: str) -> Main:
    run: Main = load_script(name).main
    return run


@pytest.fixture(scope="module")
def main() -> Main:
    return script("enhance_lol")


@pytest.fixture
def dark(tmp_path: Path) -> Path:
    """Two photographs in the dark, and by day, as `write_darkened` writes them."""
    clean = sample_set()
    write_darkened(Dataset(clean.samples[3:5], clean.classes), tmp_path / "dark", "dark")
    return tmp_path / "dark"


@pytest.fixture
def pairs(dark: Path, tmp_path: Path) -> Path:
    """The same as a set of pairs."""
    (tmp_path / "pairs").mkdir()
    for side, light in (("low", "dark"), ("high", "clean")):
        (dark / "images" / light).rename(tmp_path / "pairs" / side)
        (dark / "images" / light).symlink_to(tmp_path / "pairs" / side)
    return tmp_path / "pairs"


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_detect_exdark_shows_the_same_numbers(main: Main, dark: Path, pairs: Path, tmp_path: Path) -> None:
    names = "raw,gamma,clahe,histogram"
    # Also the same folder of enhanced images.
    shared = f"--enhancers {names} --device cpu --cache {tmp_path / 'cache'}"
    script("detect_exdark")(f"--data {dark} --levels none {shared} --out {tmp_path / 'detect'}".split())
    kept = len(list((tmp_path / "cache").rglob("*.png")))
    main(f"--data {pairs} {shared} --out {tmp_path / 'enhance'}".split())
    assert len(list((tmp_path / "cache").rglob("*.png"))) == kept == 6
    detected, enhanced = (read(tmp_path / name / "results.csv") for name in ("detect", "enhance"))
    assert [row["enhancer"] for row in enhanced] == names.split(",")
    for one, other in zip(detected, enhanced, strict=True):
        for column in ("enhancer", "PSNR", "SSIM", "ms", "images"):
            assert one[column] == other[column] != ""


def test_pairs_and_images_alone(
    main: Main, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "low" / "alone.png").write_bytes(b"no image")
    alone = tmp_path / "DICM"
    alone.mkdir()
    Image.fromarray(sample_set().samples[4].load()[:200, :200] // 4).save(alone / "01.bmp")
    network = tmp_path / "alex.pth"
    torch.save(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).state_dict(), network)
    out = tmp_path / "out"
    main(
        f"--data {pairs} {alone} --enhancers raw,histogram --gt-mean --lpips {network} --device cpu "
        f"--out {out}".split()
    )
    assert {file.name for file in out.iterdir()} == {
        *("results.csv", "results.md", "results.tex", "results.json", "images.csv", "report.html", "cache")
    }
    printed = capsys.readouterr().out
    text = (out / "results.md").read_text()
    head = (
        "| set | enhancer | PSNR | PSNR GT-mean | SSIM | SSIM GT-mean | LPIPS | LPIPS GT-mean "
        "| NIQE (own model) | ms |"
    )
    assert text.startswith(head)
    for said in (text, printed):
        assert "Used 3 of 4 images." in said
        assert "Faults: 1." in said
        assert "Fault: low/alone.png has no partner" in said
        assert "Quote the plain ones" in said
        assert "not with published ones" in said
    rows = read(out / "results.csv")
    assert [row["enhancer"] for row in rows] == ["raw", "histogram", "gamma"] * 2
    paired, unpaired = rows[:3], rows[3:]
    assert {row["set"] for row in unpaired} == {f"{tmp_path.name}/DICM"}
    assert all(row["NIQE (own model)"] == "" != row["LPIPS"] != row["LPIPS GT-mean"] for row in paired)
    assert all(row["PSNR"] == "" and float(row["NIQE (own model)"]) > 0 for row in unpaired)
    images = read(out / "images.csv")
    assert len(images) == 9
    of_raw = [float(row["PSNR"]) for row in images if row["enhancer"] == "raw" and row["PSNR"]]
    assert float(paired[0]["PSNR"]) == pytest.approx(sum(of_raw) / 2, abs=0.006)
    content = json.loads((out / "results.json").read_text())
    assert len(content["rows"]) == 6
    assert content["faults"] == ["low/alone.png has no partner"]
    assert content["command"].startswith("python experiments/enhance_lol.py --data ")
    assert len(content["data"].pop("sha256")) == 64
    assert content["data"] == {"used": 3, "of": 4}
    assert "torch" in content["versions"]
    assert content["enhancers"]["histogram"].startswith("histogram ")
    assert content["rows"][0]["PSNR"] == pytest.approx(sum(of_raw) / 2, abs=1e-9)
    assert r"\toprule" in (out / "results.tex").read_text()
    page = (out / "report.html").read_text()
    assert "histogram: best and worst by PSNR" in page
    assert content["command"].split(" --enhancers")[0] in page
    for name in ("results.json", "results.md", "results.tex", "report.html"):
        assert str(tmp_path) not in (out / name).read_text()
    assert "coffee.png" in page


def test_scenes_that_the_weights_have_seen_are_counted_by_set(
    main: Main, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    photographs = sample_set().samples
    for side, factor in (("low", 8), ("high", 1)):
        (other / side).mkdir(parents=True)
        for i in (0, 1, 2):
            small = Image.fromarray(photographs[i].load() // factor).resize((90, 60))
            small.save(other / side / f"{i}.png")
    # Of `pairs` one is known, by what it shows: its name is another. Of `other` two.
    first, two = sorted((pairs / "high").iterdir())[:1], sorted((other / "high").iterdir())[:2]
    known = fingerprints([*first, *two])
    lines = [f"{line.split()[0]} {i}00.png" for i, line in enumerate(known)]
    file = weights.save(GLARE("tiny"), tmp_path / "network", history=[{"stage": "fusion", "hashes": lines}])
    out = tmp_path / "out"
    main(f"--data {pairs} {other} --enhancers raw,glare={file} --device cpu --out {out}".split())
    line = (
        f"Scenes that the weights of glare={file.name} were trained on, by set: "
        f"{tmp_path.name}/pairs 1 of 2, {tmp_path.name}/other 2 of 3."
    )
    assert line in capsys.readouterr().out
    assert line in (out / "results.md").read_text()
    assert line in json.loads((out / "results.json").read_text())["notes"]


def test_a_definition_of_others_is_beside_the_plain_one(main: Main, pairs: Path, tmp_path: Path) -> None:
    main(f"--data {pairs} --enhancers raw --as pyiqa-y --device cpu --out {tmp_path / 'out'}".split())
    (row,) = read(tmp_path / "out" / "results.csv")
    assert 0 < float(row["PSNR"]) != float(row["PSNR pyiqa-y"])
    assert 0 < float(row["SSIM"]) < float(row["SSIM pyiqa-y"])
    assert "to compare with figures of pyiqa-y alone" in (tmp_path / "out" / "results.md").read_text()


def test_built_in_set(main: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(f"--enhancers raw --device cpu --out {tmp_path}".split())
    rows = read(tmp_path / "results.csv")
    assert [(row["set"], row["images"]) for row in rows] == [
        ("mild", "6"),
        ("dark", "6"),
        ("extreme", "6"),
        ("all", "18"),
    ]
    assert "GT-mean" not in rows[0]
    assert "six photographs, a demonstration and no measurement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--data {0}/gone", "folder with images at .*gone"),
        ("--enhancers magic", "'magic'"),
        ("--lpips {0}/gone.pth", r"gone\.pth"),
        ("--enhancers folder:{0}/gone", "enhanced images in"),
        ("--enhancers raw --device nowhere", "`device` to be one that torch has but got 'nowhere'"),
    ],
)
def test_mistakes_are_named(main: Main, tmp_path: Path, arguments: str, message: str) -> None:
    with pytest.raises(SystemExit, match=f"enhance_lol: .*{message}"):
        main(["--device", "cpu", "--out", str(tmp_path / "out"), *arguments.format(tmp_path).split()])


def test_two_processes_make_the_table_of_one(main: Main, pairs: Path, tmp_path: Path) -> None:
    words = f"--data {pairs} --enhancers raw,gamma,clahe --device cpu".split()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [*launch, str(EXPERIMENTS / "enhance_lol.py"), *words, "--out", str(tmp_path / "shared")],
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(EXPERIMENTS.parent), *sys.path])},
    )
    main([*words, "--out", str(tmp_path / "alone")])
    shared, alone = (read(tmp_path / name / "results.csv") for name in ("shared", "alone"))
    for row, expected in zip(shared, alone, strict=True):
        for column in ("ms", "MB"):
            del row[column], expected[column]
        assert row == expected
        assert row["images"] == "2"
    assert len(read(tmp_path / "shared" / "images.csv")) == 6
