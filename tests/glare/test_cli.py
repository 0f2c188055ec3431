from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from glare import GLARE, GLAREConfig, GLAREEnhance
from glare import weights as glare_weights
from glare.cli import main


@pytest.fixture
def folder(model: GLARE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glare_weights.save(model, tmp_path_factory.mktemp("weights")).parent


@pytest.fixture
def photo() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 60, (12, 18, 3), dtype=np.uint8))


def test_enhance_a_file(folder: Path, photo: PIL.Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "in.png")
    assert (
        main(["enhance", str(tmp_path / "in.png"), str(tmp_path / "out.png"), "--weights", str(folder)]) == 0
    )
    np.testing.assert_array_equal(PIL.Image.open(tmp_path / "out.png"), GLAREEnhance(folder)(photo))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_exif_and_profile_are_kept(folder: Path, photo: PIL.Image.Image, tmp_path: Path, suffix: str) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6  # orientation: turned by 90 degrees
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    photo.save(source, exif=exif, icc_profile=b"a profile")
    assert main(["enhance", str(source), str(target), "--weights", str(folder), "--fidelity", "0.5"]) == 0
    with PIL.Image.open(target) as result:
        assert result.size == photo.size
        assert result.getexif()[274] == 6
        assert result.info["icc_profile"] == b"a profile"


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", ".jpg"), ("LA", ".png"), ("RGBA", ".jpg"), ("P", ".jpg")]
)
def test_other_modes_and_formats(
    folder: Path, photo: PIL.Image.Image, tmp_path: Path, mode: str, suffix: str
) -> None:
    source = tmp_path / ("in.tif" if mode == "CMYK" else "in.png")
    photo.convert(mode).save(source)
    assert main(["enhance", str(source), str(tmp_path / f"out{suffix}"), "--weights", str(folder)]) == 0
    with PIL.Image.open(tmp_path / f"out{suffix}") as result:
        assert result.size == photo.size
        assert result.mode == ("RGBA" if suffix == ".png" else "RGB")


def test_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["enhance", "in.png", "out.png", "--device", "nonsense"])
    assert "cannot compute on 'nonsense'" in capsys.readouterr().err


def test_a_turned_tiff_comes_out_upright(folder: Path, photo: PIL.Image.Image, tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    photo.save(tmp_path / "in.tif", exif=exif, icc_profile=b"a profile")
    assert (
        main(["enhance", str(tmp_path / "in.tif"), str(tmp_path / "out.tif"), "--weights", str(folder)]) == 0
    )
    with PIL.Image.open(tmp_path / "out.tif") as result:
        assert 274 not in result.getexif()
        assert result.info["icc_profile"] == b"a profile"
        upright = photo.transpose(PIL.Image.Transpose.ROTATE_270)
        np.testing.assert_array_equal(result, GLAREEnhance(folder)(upright))


def test_a_folder_goes_on_past_corrupt_files_and_lists_them(
    folder: Path, photo: PIL.Image.Image, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night = tmp_path / "night"
    (night / "sub").mkdir(parents=True)
    photo.save(night / "a.jpg")
    photo.convert("L").save(night / "sub" / "b.PNG")
    (night / "corrupt.jpg").write_bytes((night / "a.jpg").read_bytes()[:300])
    (night / "notes.txt").write_text("no image")
    assert main(["enhance", str(night), str(tmp_path / "day"), "--weights", str(folder)]) == 1
    written = {str(p.relative_to(tmp_path / "day")) for p in (tmp_path / "day").rglob("*") if p.is_file()}
    assert written == {"a.jpg", str(Path("sub", "b.PNG"))}
    assert PIL.Image.open(tmp_path / "day" / "sub" / "b.PNG").mode == "L"
    told = capsys.readouterr().err
    assert "1 of 3 files failed" in told
    assert str(night / "corrupt.jpg") in told


def test_a_second_run_into_a_folder_within_takes_only_the_originals(
    folder: Path, photo: PIL.Image.Image, tmp_path: Path
) -> None:
    photo.save(tmp_path / "a.png")
    for _ in range(2):
        assert main(["enhance", str(tmp_path), str(tmp_path / "out"), "--weights", str(folder)]) == 0
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["a.png"]


def test_what_cannot_be_done_is_told(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (["enhance", str(tmp_path / "none.png"), "out.png"], "No such file"),
        (["enhance", str(tmp_path), str(tmp_path)], "another folder"),
        (["enhance", str(tmp_path), "out"], "No images"),
        (["enhance", str(folder / "model.safetensors"), "out"], "Expected OUT to be a folder or to end in"),
        (["info", "--weights", "no-such-weights"], "no-such-weights"),
        (["train", "flow", "--out", str(tmp_path)], "--init"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err


@pytest.fixture
def official() -> tuple[GLARE, dict[str, Tensor], dict[str, Tensor]]:
    """A small model, and its weights under the official names."""
    torch.manual_seed(0)
    keys = json.loads((Path(__file__).parent / "parity" / "official_keys.json").read_text())
    model = GLARE(GLAREConfig(channels=32, codes=64))
    state = model.state_dict()
    parts: dict[str, dict[str, Tensor]] = {"netg": {}, "vqgan": {}}
    for ours, (part, key) in glare_weights.official_names(keys["netg"], keys["vqgan"]).items():
        parts[part][key] = state[ours]
    return model, parts["netg"], parts["vqgan"]


def test_convert_takes_plain_and_wrapped_checkpoints(
    official: tuple[GLARE, dict[str, Tensor], dict[str, Tensor]], tmp_path: Path
) -> None:
    model, netg, vqgan = official
    torch.save({"params": netg, "epoch": 3}, tmp_path / "net_G.pth")
    torch.save(vqgan, tmp_path / "vqgan.pkl")
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "net_G.pth"), str(tmp_path / "vqgan.pkl"), str(out)]) == 0
    converted = glare_weights.load(out)
    assert converted.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[key], value), key
    assert glare_weights.sha256(tmp_path / "vqgan.pkl") in (out / glare_weights.CARD).read_text()


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('code from a checkpoint ran')",))


def test_convert_refuses_code_and_what_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "net_G.pth")
    for content, message in (
        ({"params": Payload()}, "is refused"),
        ([1, 2], "holds a list"),
        ({"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(1)}}, r"['a', 'b']"),
        ({"RRDB.unknown": torch.zeros(1)}, "missing"),
    ):
        torch.save(content, path)
        assert main(["convert", path, path, str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    for damaged in (b"no checkpoint", b"this is nonsense", b""):
        (tmp_path / "net_G.pth").write_bytes(damaged)
        assert main(["convert", path, path, str(tmp_path / "out")]) == 1
        told = capsys.readouterr().err
        assert "is refused" in told
        assert "weights_only" not in told
    assert not (tmp_path / "out").exists()


def test_info(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = folder / "README.md"
    card.write_text("---\nlicense: cc-by-nc-4.0\n---\n# A card\n")
    assert main(["info", "--weights", str(folder)]) == 0
    told = capsys.readouterr().out
    parameters = sum(p.numel() for p in glare_weights.load(folder).parameters())
    for expected in (f"{parameters:,}", "flow_steps", "cc-by-nc-4.0", str(card)):
        assert expected in told


def test_runs_as_a_module() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "glare", "--help"], capture_output=True, text=True, check=True
    )
    assert all(command in result.stdout for command in ("enhance", "convert", "info", "train"))
