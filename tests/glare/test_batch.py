from __future__ import annotations

import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import skimage
import torch
from PIL import TiffImagePlugin, features
from torch import Tensor

from glare import GLARE, GLAREEnhance
from glare import weights as glare_weights
from glare.batch import _ahead, enhance_files, find_jobs
from glare.cli import main


@pytest.fixture
def weights(model: GLARE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glare_weights.save(model, tmp_path_factory.mktemp("weights")).parent


def picture(path: Path, size: tuple[int, int] = (18, 12), seed: int = 0, mode: str = "RGB") -> Path:
    pixels = np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).convert(mode).save(path)
    return path


def relative(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


class TestJobs:
    @pytest.fixture
    def night(self, tmp_path: Path) -> Path:
        for name in ("a.jpg", "b.png", "sub/a.JPG", "sub/deep/c.png"):
            picture(tmp_path / "night" / name)
        (tmp_path / "night" / "clip.mp4").write_bytes(b"")
        (tmp_path / "night" / "notes.txt").write_text("no image")
        return tmp_path / "night"

    @pytest.mark.parametrize(
        ("inputs", "expected"),
        [
            (["night"], ["a.jpg", "b.png", "clip.mp4", "sub/a.JPG", "sub/deep/c.png"]),
            (["night/*.jpg"], ["a.jpg"]),  # one file, but a pattern: OUT is a folder
            (["night/**/*.png"], ["b.png", "sub/deep/c.png"]),
            (["night/sub/deep/c.png", "night/a.jpg"], ["c.png", "a.jpg"]),
            (["night/a.jpg"], ["a.jpg"]),
        ],
    )
    def test_the_tree_is_kept(self, night: Path, inputs: list[str], expected: list[str]) -> None:
        out = night.parent / "day"
        jobs = find_jobs([str(night.parent / name) for name in inputs], out)
        assert [target.relative_to(out).as_posix() for _, target in jobs] == expected
        assert all(source.name == target.name and source.is_file() for source, target in jobs)

    def test_mistakes(self, night: Path) -> None:
        out, a = night.parent / "day", str(night / "a.jpg")
        for inputs, output, message in (
            ([str(night / "*.webp")], out, "No images"),
            ([a, str(night / "none.jpg")], out, "No such file"),
            ([a, str(night / "notes.txt")], out, "Expected an image or a video"),
            ([a, str(picture(night.parent / "other" / "a.jpg"))], out, "would become"),
            ([a, str(night / "b.png")], night, "lies in both"),
            ([a], Path(a), "another file than IN"),
            ([a, str(night / "b.png")], out / "c.png", r"folder.*c\.png"),
            ([str(night)], out / "c.png", r"folder.*c\.png"),
            ([a], night / "b.png" / "c.png", r"lie in a folder but .*b\.png is a file"),
            ([str(night)], night / "b.png" / "day", r"lie in a folder but .*b\.png is a file"),
            ([str(night / "clip.mp4")], out / "clip.png", r"end in one of \.avi.*clip\.png"),
        ):
            with pytest.raises((ValueError, FileNotFoundError), match=message):
                find_jobs(inputs, output)


class TestImages:
    def test_sizes_go_together_and_every_image_is_its_own(self, weights: Path, tmp_path: Path) -> None:
        sizes = [(18, 12), (9, 14), (18, 12), (18, 12), (7, 7), (18, 12), (9, 14), (18, 12)]
        modes = ["RGB", "L", "RGBA", "RGB", "RGB", "RGB", "RGB", "RGB"]
        for i, (size, mode) in enumerate(zip(sizes, modes, strict=True)):
            picture(tmp_path / "night" / f"{i}.png", size, seed=i, mode=mode)
        enhance = GLAREEnhance(weights)
        shapes = []

        def seen(pixels: Tensor) -> Tensor:
            shapes.append(tuple(pixels.shape))
            return enhance(pixels)

        jobs = find_jobs([str(tmp_path / "night")], tmp_path / "day")
        assert enhance_files(seen, jobs, batch=2) == []
        assert sorted(shapes) == sorted([(2, 3, 12, 18)] * 2 + [(2, 3, 14, 9), (1, 3, 12, 18), (1, 3, 7, 7)])
        for (source, target), mode in zip(jobs, modes, strict=True):
            with PIL.Image.open(source) as low, PIL.Image.open(target) as result:
                assert result.mode == mode
                alone = np.asarray(enhance(low), int)
                assert np.abs(np.asarray(result) - alone).max() <= 1  # half way between two levels

    def test_a_png_is_packed_fast_and_small(self, tmp_path: Path) -> None:
        source, target = tmp_path / "in.png", tmp_path / "out.png"
        photograph = PIL.Image.fromarray(skimage.data.chelsea())
        photograph.save(source)
        assert enhance_files(lambda pixels: pixels, [(source, target)]) == []
        packed = target.read_bytes()
        assert packed[packed.index(b"IDAT") + 5] >> 6 == 0  # "fastest algorithm", RFC 1950
        assert len(packed) < 1.1 * source.stat().st_size
        with PIL.Image.open(target) as result:
            np.testing.assert_array_equal(result, photograph)

    def test_rare_sizes_do_not_pile_up(self, tmp_path: Path) -> None:
        for i in range(12):
            picture(tmp_path / "night" / f"{i:02}.png", (8 + i, 8))
        waiting = []

        def seen(pixels: Tensor) -> Tensor:
            waiting.append(sum(1 for _ in (tmp_path / "day").glob("*.png")))
            return pixels

        enhance_files(seen, find_jobs([str(tmp_path / "night")], tmp_path / "day"), batch=2)
        assert len(waiting) == 12
        assert waiting[-1] > 0  # the first were written before the last was enhanced

    def test_resume_leaves_what_is_whole(self, weights: Path, tmp_path: Path) -> None:
        night, day = tmp_path / "night", tmp_path / "day"
        for name in "abcd":
            picture(night / f"{name}.png", seed=ord(name))
        arguments = ["enhance", str(night), str(day), "--weights", str(weights), "--resume"]
        assert main(arguments) == 0
        whole = {path.name: path.read_bytes() for path in day.iterdir()}
        picture(day / "a.png", seed=9)  # of the right size, by whomever: whole
        (day / "b.png").write_bytes(whole["b.png"][:200])
        picture(day / "c.png", (5, 5))
        (day / "d.png").unlink()
        mine = (day / "a.png").read_bytes()
        assert main(arguments) == 0
        assert {path.name: path.read_bytes() for path in day.iterdir()} == {**whole, "a.png": mine}

    def test_failures_are_listed_in_order_and_leave_nothing(
        self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        night, day = tmp_path / "night", tmp_path / "day"
        for name in ("a.png", "b.png", "d.png"):
            picture(night / name)
        (night / "c.jpg").write_bytes(b"no image")
        (day / "a.png" / "in the way").mkdir(parents=True)
        (day / "c.jpg").write_bytes(b"what was there")
        assert main(["enhance", str(night), str(day), "--weights", str(weights), "--batch", "2"]) == 1
        told = capsys.readouterr().err.partition("2 of 4 files failed")[2]
        assert 0 < told.index(str(night / "a.png")) < told.index(str(night / "c.jpg"))
        assert relative(day) == ["b.png", "c.jpg", "d.png"]
        assert (day / "c.jpg").read_bytes() == b"what was there"

    def test_a_stop_leaves_no_half_file_and_the_error_is_told(self, tmp_path: Path) -> None:
        for i in range(6):
            picture(tmp_path / "night" / f"{i}.png")
        calls = []

        def stops(pixels: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of something")
            return pixels

        with pytest.raises(RuntimeError, match="out of something"):
            enhance_files(stops, find_jobs([str(tmp_path / "night")], tmp_path / "day"))
        assert relative(tmp_path / "day") == ["0.png", "1.png"]

    @pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files by Linux's means")
    def test_a_full_disk_leaves_no_half_file_and_is_told(self, tmp_path: Path) -> None:
        import resource

        picture(tmp_path / "night" / "large.png", (120, 90))
        picture(tmp_path / "night" / "small.png", (18, 12))
        jobs = find_jobs([str(tmp_path / "night")], tmp_path / "day")
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))  # writes fail beyond, as on a full disk
        try:
            (line,) = enhance_files(lambda pixels: pixels, jobs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert line == f"{tmp_path}/night/large.png: [Errno 27] File too large"
        assert relative(tmp_path / "day") == ["small.png"]

    def test_nan_is_a_fault_of_that_image(self, weights: Path, tmp_path: Path) -> None:
        for i in range(4):
            picture(tmp_path / "night" / f"{i}.png", seed=i)
        PIL.Image.new("RGB", (18, 12), (255, 0, 0)).save(tmp_path / "night" / "2.png")
        model = glare_weights.load(weights)
        forward = model.forward

        def breaks_on_red(low: Tensor, fidelity: float = 1.0) -> Tensor:
            red = (low[:, :1] == 1).flatten(1).all(1)
            return torch.where(red[:, None, None, None], torch.nan, forward(low, fidelity))

        model.forward = breaks_on_red  # type: ignore[method-assign]
        jobs = find_jobs([str(tmp_path / "night")], tmp_path / "day")
        enhance = GLAREEnhance(model, trainable=True)  # that very model, not a copy
        (line,) = enhance_files(enhance, jobs, batch=4)
        assert line == f"{tmp_path / 'night' / '2.png'}: Expected the network to compute numbers but got NaN."
        assert relative(tmp_path / "day") == ["0.png", "1.png", "3.png"]

    def test_deep_pixels_are_rounded_and_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
        (tmp_path / "in").mkdir()
        PIL.Image.fromarray(grey).save(tmp_path / "in" / "a.png")
        PIL.Image.fromarray(grey.astype(np.float32) / 65535).save(tmp_path / "in" / "b.tif")
        PIL.Image.fromarray(grey.astype(np.int32)).save(tmp_path / "in" / "c.tif")
        (line,) = enhance_files(lambda pixels: pixels, find_jobs([str(tmp_path / "in")], tmp_path / "out"))
        assert "c.tif: Expected an image of 8 or 16 bits" in line
        for name in ("a.png", "b.tif"):
            with PIL.Image.open(tmp_path / "out" / name) as result:
                assert result.mode == "L"
                assert np.array_equal(result, np.rint(grey / 257))
        assert "rounded to 8, and 1 more like it" in capsys.readouterr().err

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", None])
    def test_packed_tiff(self, tmp_path: Path, compression: str | None) -> None:
        source, target = picture(tmp_path / "in.tif"), tmp_path / "out.tif"
        with PIL.Image.open(source) as image:
            image.save(source, compression=compression)
        assert enhance_files(lambda pixels: pixels, [(source, target)]) == []
        with PIL.Image.open(source) as image, PIL.Image.open(target) as result:
            assert result.info["compression"] == {None: "raw", "jpeg": "tiff_lzw"}.get(
                compression, compression
            )
            assert np.array_equal(result, image)

    @pytest.mark.parametrize(
        ("name", "mode", "compression"), [("in.tif", "1", "group4"), ("in.bmp", "RGB", None)]
    )
    def test_what_becomes_a_tiff(self, tmp_path: Path, name: str, mode: str, compression: str | None) -> None:
        source, target = tmp_path / name, tmp_path / "out.tif"
        image = PIL.Image.effect_noise((18, 12), 90).convert("RGB").convert(mode)
        image.save(source, **({"compression": compression} if compression else {}))
        assert enhance_files(lambda pixels: pixels, [(source, target)]) == []
        with PIL.Image.open(target) as result:
            assert np.array_equal(result, image.convert("RGB"))

    @pytest.mark.parametrize("lossless", [True, False])
    def test_webp_without_loss_stays_so(self, tmp_path: Path, lossless: bool) -> None:
        source, target = tmp_path / "in.webp", tmp_path / "out.webp"
        picture(tmp_path / "in.png")
        with PIL.Image.open(tmp_path / "in.png") as image:
            image.save(
                source, lossless=lossless, exif=PIL.Image.Exif()
            )  # which puts the pixels into a later chunk
        assert enhance_files(lambda pixels: pixels, [(source, target)]) == []
        with PIL.Image.open(source) as image, PIL.Image.open(target) as result:
            assert np.array_equal(image, result) == lossless

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".bmp"])
    def test_orientation_survives(self, tmp_path: Path, suffix: str) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        upright = np.zeros((40, 60, 3), np.uint8)
        upright[:, :30] = 200
        stored = PIL.Image.fromarray(upright).rotate(90, expand=True)
        source, target = tmp_path / "in.jpg", tmp_path / f"out{suffix}"
        stored.save(source, exif=exif, quality=95)
        assert enhance_files(lambda pixels: pixels, [(source, target)]) == []
        with PIL.Image.open(target) as result:
            seen = np.asarray(PIL.ImageOps.exif_transpose(result))
        assert seen.shape == upright.shape
        assert np.abs(seen.astype(int) - upright).mean() < 4

    @pytest.mark.parametrize("suffix", [".tif", ".png", ".webp"])
    def test_several_pictures_in_a_file(self, tmp_path: Path, suffix: str) -> None:
        frames = [PIL.Image.new("RGB", (18, 12), (20 * i, 0, 0)) for i in range(3)]
        frames[0].save(tmp_path / f"in{suffix}", save_all=True, append_images=frames[1:])
        (line,) = enhance_files(lambda pixels: pixels, [(tmp_path / f"in{suffix}", tmp_path / "out.png")])
        assert "it holds 3 pictures, of which all but the first would be lost" in line
        assert not (tmp_path / "out.png").exists()

    def test_images_of_kinds_that_are_not_written_become_png(self, tmp_path: Path) -> None:
        """A telephone's HEIC, which nothing here reads, is told and not passed over."""
        if not features.check("avif") or not features.check("jpg_2000"):
            pytest.skip("this Pillow was built without AVIF or JPEG 2000")
        (tmp_path / "in").mkdir()
        for name in ("a.avif", "b.jp2", "c.MPO"):
            form = "MPO" if name.endswith("MPO") else None
            PIL.Image.new("RGB", (24, 16), (60, 0, 0)).save(tmp_path / "in" / name, form)
        (tmp_path / "in" / "d.heic").write_bytes(b"\0\0\0\x18ftypheic")
        failed = enhance_files(lambda pixels: pixels, find_jobs([str(tmp_path / "in")], tmp_path / "out"))
        assert relative(tmp_path / "out") == ["a.png", "b.png", "c.png"]
        (line,) = failed
        assert "d.heic: cannot identify image file" in line
        assert "pillow-heif" in line

    def test_a_preview_is_not_the_photograph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[254] = 1  # a smaller version of another picture
        picture(tmp_path / "in.png")
        with PIL.Image.open(tmp_path / "in.png") as preview:
            preview.save(tmp_path / "in.tif", tiffinfo=tags)
            preview.save(tmp_path / "in.dng", format="TIFF")
        monkeypatch.setitem(sys.modules, "rawpy", None)
        for name in ("in.tif", "in.dng"):
            ((source, target),) = find_jobs([str(tmp_path / name)], tmp_path / "out")
            (line,) = enhance_files(lambda pixels: pixels, [(source, target)])
            assert line.startswith(f"{source}: a camera's raw file, of which only a preview could be read")
            assert "glare-torch[raw]" in line
        assert not (tmp_path / "out").exists()

    def test_raw_files_are_developed(self, tmp_path: Path) -> None:
        pytest.importorskip("rawpy")
        mosaic = np.full((64, 96), 20000, np.uint16)
        mosaic[:, 48:] = 2000
        (tmp_path / "in").mkdir()
        write_dng(tmp_path / "in" / "a.dng", mosaic)
        (tmp_path / "in" / "b.DNG").write_bytes(b"no raw file")
        jobs = find_jobs([str(tmp_path / "in")], tmp_path / "out")
        (line,) = enhance_files(lambda pixels: pixels, jobs)
        assert "b.DNG: cannot develop it" in line
        assert relative(tmp_path / "out") == ["a.png"]
        with PIL.Image.open(tmp_path / "out" / "a.png") as result:
            assert (result.mode, result.size) == ("RGB", (96, 64))
            # The curve of BT.709, which LibRaw takes: 1.099 v^0.45 - 0.099.
            for x, value in ((20, 20000), (80, 2000)):
                expected = 255 * (1.099 * (value / 65535) ** 0.45 - 0.099)
                assert np.abs(np.asarray(result)[20, x] - expected).max() <= 2

    def test_links_and_what_macos_leaves(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture(tmp_path / "elsewhere" / "b.png")
        picture(tmp_path / "in" / "a.png")
        (tmp_path / "in" / "._a.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "ring").symlink_to(tmp_path / "in")
        jobs = find_jobs([str(tmp_path / "in")], tmp_path / "out")
        assert enhance_files(lambda pixels: pixels, jobs) == []
        assert relative(tmp_path / "out") == ["a.png", "link/b.png"]
        assert "passed over 1 files such as ._a.png" in capsys.readouterr().err

    def test_batch_is_positive(self) -> None:
        with pytest.raises(ValueError, match="`batch` to be positive but got 0"):
            enhance_files(lambda pixels: pixels, [], batch=0)

    def test_options_reach_the_transform(self, weights: Path, tmp_path: Path) -> None:
        source = picture(tmp_path / "in.png", (24, 16))
        options = ["--dtype", "bfloat16", "--tile", "none", "--fidelity", "0.5"]
        assert (
            main(["enhance", str(source), str(tmp_path / "out.png"), "--weights", str(weights), *options])
            == 0
        )
        enhance = GLAREEnhance(weights, fidelity=0.5, dtype=torch.bfloat16, tile=None)
        with PIL.Image.open(source) as low, PIL.Image.open(tmp_path / "out.png") as result:
            np.testing.assert_array_equal(result, enhance(low))


def test_reading_runs_ahead_and_keeps_the_order() -> None:
    begun = []
    with ThreadPoolExecutor(1) as pool:
        ahead = _ahead(pool, begun.append, iter(range(9)), 3)
        item, future = next(ahead)
        future.result()
        assert item == 0
        assert [item for item, _ in ahead] == list(range(1, 9))
    assert begun == list(range(9))


def test_processes_share_the_files(weights: Path, tmp_path: Path) -> None:
    night, day = tmp_path / "night", tmp_path / "day"
    for i in range(5):
        picture(night / f"{i}.png", seed=i)
    (night / "0.png").write_bytes(b"no image")  # rank 0 is through with its share early, and must wait
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "glare", "enhance", str(night), str(day), "--weights", str(weights), "--device", "cpu"]
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=False
    )
    assert result.returncode != 0
    assert relative(day) == [f"{i}.png" for i in range(1, 5)], result.stderr
    assert result.stderr.count("1 of 5 files failed") == 1


def write_dng(path: Path, mosaic: np.ndarray) -> None:
    """A camera's raw file as Adobe's DNG has it: (H, W) uint16, a mosaic of red, green, green and blue."""
    height, width = mosaic.shape
    matrix = [(1, 1) if i % 4 == 0 else (0, 1) for i in range(9)]
    fields: list[tuple[int, str, tuple[int, ...]]] = [
        (254, "I", (0,)),
        (256, "I", (width,)),
        (257, "I", (height,)),
        (258, "H", (16,)),
        (259, "H", (1,)),
        (262, "H", (32803,)),  # a mosaic
        (271, "s", tuple(b"Test\0")),
        (272, "s", tuple(b"Test\0")),
        (273, "I", (0,)),  # where the pixels are
        (274, "H", (1,)),
        (277, "H", (1,)),
        (278, "I", (height,)),
        (279, "I", (mosaic.nbytes,)),
        (33421, "H", (2, 2)),
        (33422, "B", (0, 1, 1, 2)),
        (50706, "B", (1, 4, 0, 0)),
        (50708, "s", tuple(b"Test\0")),
        (50714, "I", (0,)),  # black
        (50717, "I", (65535,)),  # white
        (50721, "i", tuple(number for pair in matrix for number in pair)),
        (50728, "r", (1, 1) * 3),
        (50778, "H", (21,)),
    ]
    kinds = {
        "B": (1, "B", 1),
        "s": (2, "B", 1),
        "H": (3, "H", 1),
        "I": (4, "I", 1),
        "r": (5, "I", 2),
        "i": (10, "i", 2),
    }
    behind = 8 + 2 + 12 * len(fields) + 4
    packed = {tag: struct.pack(f"<{len(values)}{kinds[kind][1]}", *values) for tag, kind, values in fields}
    packed[273] = struct.pack("<I", behind + sum(len(p) + len(p) % 2 for p in packed.values() if len(p) > 4))
    table = extra = b""
    for tag, kind, values in fields:
        value, (code, _, numbers) = packed[tag], kinds[kind]
        if len(value) > 4:
            place = struct.pack("<I", behind + len(extra))
            extra += value + b"\0" * (len(value) % 2)
            value = place
        table += struct.pack("<HHI", tag, code, len(values) // numbers) + value.ljust(4, b"\0")
    start = b"II*\0" + struct.pack("<IH", 8, len(fields))
    path.write_bytes(start + table + bytes(4) + extra + mosaic.astype("<u2").tobytes())
