from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glare.reading import (
    find_files,
    left_alongside,
    lossy_form,
    open_image,
    read_header,
    read_image,
    read_text,
)

GREY = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)


class TestDepth:
    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_sixteen_bits_are_rounded(self, tmp_path: Path, name: str) -> None:
        Image.fromarray(GREY).save(tmp_path / name)
        assert read_header(tmp_path / name).depth == "16 bits"
        image = read_image(tmp_path / name, upright=False)
        assert image.shape == (16, 16, 3)
        assert np.array_equal(image[..., 0], np.rint(GREY / 257))

    @pytest.mark.parametrize("name", ["a.png", "a.tif"])
    def test_colour_of_sixteen_bits(self, tmp_path: Path, name: str) -> None:
        cv2 = pytest.importorskip("cv2")
        cv2.imwrite(str(tmp_path / name), np.stack([GREY, GREY // 2, GREY // 4], axis=-1))
        assert read_header(tmp_path / name).depth == "16 bits"
        image = read_image(tmp_path / name, upright=False)
        assert np.array_equal(image, np.stack([GREY // 4, GREY // 2, GREY], axis=-1) >> 8)

    def test_floats(self, tmp_path: Path) -> None:
        Image.fromarray(GREY.astype(np.float32) / 65535 * 1.05).save(tmp_path / "a.tif")
        assert read_header(tmp_path / "a.tif").depth == "floats"
        expected = np.rint(np.clip(GREY / 65535 * 1.05, 0, 1) * 255)
        assert np.abs(read_image(tmp_path / "a.tif", upright=False)[..., 0] - expected).max() <= 1

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            (GREY.astype(np.float32), r"values in \[0, 6\.528e\+04\]"),
            (np.full((4, 4), np.nan, np.float32), "NaN or infinity"),
            (GREY.astype(np.int32), "whole numbers of 32 bits"),
        ],
    )
    def test_what_has_no_white(self, tmp_path: Path, values: np.ndarray, words: str) -> None:
        Image.fromarray(values).save(tmp_path / "a.tif")
        with pytest.raises(ValueError, match=words):
            read_image(tmp_path / "a.tif", upright=False)

    def test_colour_of_floats_is_told(self, tmp_path: Path) -> None:
        cv2 = pytest.importorskip("cv2")
        cv2.imwrite(str(tmp_path / "a.tif"), np.zeros((8, 8, 3), np.float32))
        with pytest.raises(OSError, match=r"a\.tif': Pillow reads no TIFF of floats in colour"):
            read_header(tmp_path / "a.tif")

    @pytest.mark.parametrize("name", ["a.tif", "a.png", "a.webp"])
    def test_of_several_pictures_the_first_is_taken_and_that_is_told(self, tmp_path: Path, name: str) -> None:
        frames = [Image.new("RGB", (18, 12), (20 * i, 0, 0)) for i in range(1, 4)]
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_header(tmp_path / name).losses == "3 pictures, of which the first is taken"
        assert read_image(tmp_path / name, upright=False)[0, 0].tolist() == [20, 0, 0]

    def test_eight_bits_have_nothing_to_lose(self, tmp_path: Path) -> None:
        Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
        assert read_header(tmp_path / "a.png").depth == ""
        assert read_image(tmp_path / "a.png", upright=False)[0, 0].tolist() == [1, 2, 3]


class TestOrientation:
    @pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
    def test_header_and_pixels(self, tmp_path: Path, kind: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20)).save(tmp_path / f"a.{kind}", exif=exif)
        header = read_header(tmp_path / f"a.{kind}")
        assert header.upright == (20, 30)
        assert read_image(tmp_path / f"a.{kind}", upright=True).shape == (30, 20, 3)
        assert header.size == (20, 30) if kind == "tif" else (30, 20)

    def test_exif_behind_the_pixels_of_a_png(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 20)).save(tmp_path / "a.png", exif=exif)
        content = (tmp_path / "a.png").read_bytes()
        start = content.index(b"eXIf") - 4
        end = start + 12 + int.from_bytes(content[start : start + 4], "big")
        last = content.index(b"IEND") - 4
        moved = content[:start] + content[end:last] + content[start:end] + content[last:]
        (tmp_path / "a.png").write_bytes(moved)
        assert read_header(tmp_path / "a.png").orientation == 6
        assert read_image(tmp_path / "a.png", upright=True).shape == (30, 20, 3)


class TestFiles:
    def test_links_rings_and_what_macos_leaves(self, tmp_path: Path) -> None:
        for name in ("in/a.png", "in/below/b.JPG", "in/._a.png", "in/c.txt", "out/d.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("")
        (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
        (tmp_path / "out" / "ring").symlink_to(tmp_path / "in")
        found = [file.relative_to(tmp_path / "in").as_posix() for file in find_files(tmp_path / "in")]
        assert found == ["a.png", "below/b.JPG", "link/d.png"]
        assert [file.name for file in find_files(tmp_path / "in", {".txt"})] == ["c.txt"]
        assert left_alongside(tmp_path / "in")[0].startswith("passed over 1 files such as ._a.png")
        assert left_alongside(tmp_path / "out" / "nowhere") == find_files(tmp_path / "nowhere") == []

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_texts(self, tmp_path: Path, encoding: str) -> None:
        (tmp_path / "a.txt").write_text("Größe\n", encoding=encoding)
        assert read_text(tmp_path / "a.txt") == "Größe\n"

    def test_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xff\xd8")
        with pytest.raises(ValueError, match="decode"):
            read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("suffix", "how", "form"),
    [
        ("jpg", {}, "JPEG"),
        ("png", {}, ""),
        ("bmp", {}, ""),
        ("webp", {}, "WebP with loss"),
        ("webp", {"lossless": True}, ""),
        ("webp", {"lossless": True, "exif": Image.Exif()}, ""),  # the pixels stand in a later chunk
        ("tif", {}, ""),
        ("tif", {"compression": "tiff_lzw"}, ""),
        ("tif", {"compression": "jpeg"}, "TIFF with loss"),
    ],
)
def test_lossy_form(tmp_path: Path, suffix: str, how: dict[str, Any], form: str) -> None:
    image = Image.effect_noise((31, 21), 60).convert("RGB")
    image.save(tmp_path / f"a.{suffix}", **how)
    with open_image(tmp_path / f"a.{suffix}") as stored:
        assert lossy_form(stored) == form
        assert np.array_equal(stored, image) == (not form)
