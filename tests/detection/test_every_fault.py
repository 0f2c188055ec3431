"""One set with whatever people really have in theirs: it gives a table and a list, and nothing is lost in silence."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detection import Detections, evaluate, read_dataset
from detection.data.core import Pixels
from detection.enhancers import gamma, raw

BOX = "0 0.5 0.5 0.5 0.5\n"
SIZE = (64, 48)


class Middle:
    """Finds the box in the middle of every image."""

    names = ("cat", "dog")

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        found = []
        for image in images:
            height, width, _ = image.shape
            box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
            found.append(Detections(box, np.array([0.9]), np.array([0])))
        return found


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    images, labels = root / "images", root / "labels"
    for place in (images / "below", labels / "below", tmp_path / "elsewhere"):
        place.mkdir(parents=True)
    colour = Image.effect_noise(SIZE, 60).convert("RGB")
    grey = np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE[::-1])
    grey /= grey.max()
    nan = grey.copy()
    nan[0] = np.nan

    def add(name: str, image: Image.Image = colour, label: str | None = BOX, **saved: object) -> Path:
        file = images / name
        image.save(file, **saved)  # type: ignore[arg-type]
        if label is not None:
            (labels / name).with_suffix(".txt").write_text(label, encoding="utf-8")
        return file

    # What is read as it is meant.
    for orientation in (2, 3, 6, 8):
        stored = colour.transpose(Image.Transpose.ROTATE_90) if orientation > 4 else colour
        add(f"turned{orientation}.jpg", stored, exif=turned(orientation))
    add("turned.png", colour.transpose(Image.Transpose.ROTATE_90), exif=turned(6))
    add("turned.webp", colour.transpose(Image.Transpose.ROTATE_90), exif=turned(8))
    add("deep.png", Image.fromarray((grey * 65535).astype(np.uint16)))
    add("deep.tif", Image.fromarray((grey * 65535).astype(np.uint16)))
    add("floats.tif", Image.fromarray(grey))
    add("lzw.tif", compression="tiff_lzw")
    add("deflate.tiff", compression="tiff_adobe_deflate")
    add("pages.tif", save_all=True, append_images=[colour])
    add("moves.webp", save_all=True, append_images=[colour.rotate(180)])
    add("cmyk.jpg", colour.convert("CMYK"))
    add("palette.png", colour.convert("P"))
    add("alpha.png", colour.convert("LA"))
    add("bits.bmp", colour.convert("1"))
    add("UPPER.JPEG")
    add("a name with späces.and.dots.png")
    add("below/deeper.png")
    add("decimal.png", label="0.0 0.5 0.5 0.5 0.5\n")
    add("polygon.png", label="0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    add("thrice.png", label=3 * BOX)
    add("beyond.png", label=BOX + "1 0.9 0.5 0.6 0.2\n1 3 3 0.1 0.1\n1 0.5 0.5 0 0.1\n")
    add("nothing.png", label="")
    add("unlabelled.png", label=None)
    add("sixteen.png", label=None)
    (labels / "sixteen.txt").write_text(BOX, encoding="utf-16")
    # What cannot be.
    add("whole.tif", Image.fromarray((grey * 65535).astype(np.int32)))
    add("nan.tif", Image.fromarray(nan))
    add("bright.tif", Image.fromarray(grey * 1000))
    add("words.png", label="cat 0.5 0.5 0.5 0.5\n")
    add("short.png", label="0 0.5 0.5\n")
    add("unknown.png", label="7 0.5 0.5 0.5 0.5\n")
    add("infinite.png", label="0 0.5 0.5 inf 0.5\n")
    add("between.png", label="0.5 0.5 0.5 0.5 0.5\n")
    cut = add("cut.png")
    cut.write_bytes(cut.read_bytes()[:700])
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.jpg").write_text("no image")
    (images / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (labels / "phone.txt").write_text(BOX)
    (images / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    # What lies about.
    (images / "._deep.png").write_bytes(b"\0\5\x16\7")
    (labels / "orphan.txt").write_text(BOX)
    (labels / "classes.txt").write_text("cat\ndog\n")
    colour.save(tmp_path / "elsewhere" / "linked.png")
    (tmp_path / "elsewhere" / "ring").symlink_to(images)
    (images / "link").symlink_to(tmp_path / "elsewhere")
    (labels / "link").mkdir()
    (labels / "link" / "linked.txt").write_text(BOX)
    (root / "dataset.yaml").write_text("val: images\nnames: {'0': cat, '1': dog}\n")
    return root


def test_a_table_and_a_list(folder: Path) -> None:
    data = read_dataset(folder)
    table = evaluate(data, {"raw": raw, "gamma": gamma}, Middle(), metrics=())
    files = [
        file
        for file in (folder / "images").rglob("*")
        if not file.is_dir() and not file.name.startswith("._")
    ]
    files.append(folder / "images" / "link" / "linked.png")
    assert len(set(files)) >= 40
    assert table.attrs["of"] == len(set(files)) + 1  # labels/orphan.txt has lost its image
    faults = table.attrs["faults"]
    broken = {
        *("whole.tif", "nan.tif", "bright.tif", "words.png", "short.png", "unknown.png", "infinite.png"),
        *("between.png", "cut.png", "empty.jpg", "text.jpg", "gone.jpg", "phone.heic"),
    }
    for name in broken:
        assert any(fault.startswith(f"{name}: ") for fault in faults), name
    assert table.attrs["used"] == len(set(files)) - len(broken)
    for words in (
        "labels/orphan.txt: there is no image of this name",
        "thrice.png: dropped 2 of 3 boxes, which are there twice",
        "beyond.png: cut 1 of 4 boxes",
        "beyond.png: dropped 1 of 4 boxes, as the image measures",
        "beyond.png: dropped 1 of 4 boxes, without width or height",
        "deep.png and 1 more: 16 bits, rounded to 8",
        "bright.tif and 2 more: floats, rounded to 8",
        "moves.webp and 1 more: 2 pictures, of which the first is taken",
        "passed over 1 files such as ._deep.png",
    ):
        assert any(words in fault for fault in faults), words
    # Every cat is where the label says, however the file is stored; the dog of `beyond.png` was not found.
    for row in table.to_dict("records"):
        assert row["AP50 Cat"] > 0.9
        assert row["AP50 Dog"] == 0
        assert row["boxes"] == 27
