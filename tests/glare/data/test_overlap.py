from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from glare.data.overlap import NEAR, find_overlaps, fingerprint, fingerprints
from glare.data.pairs import list_images

LOL = Path(__file__).parents[4] / "shared" / "data" / "lol_v1" / "train" / "high"
PHOTOS = LOL.parents[2] / "photos"


def scene(number: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """A made-up picture, coarse shapes with fine grain on them."""
    draw = np.random.default_rng(number)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    grain = draw.normal(0, 8, (size[1], size[0], 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8))


def window(picture: Image.Image, left: int, side: int = 200) -> Image.Image:
    return picture.crop((left, 0, left + side, side))


@pytest.fixture
def trained(tmp_path: Path) -> list[str]:
    """What weights tell that were trained on windows out of thirty scenes, at any place and compressed."""
    folder = tmp_path / "trained"
    folder.mkdir()
    for i in range(30):
        window(scene(i), 37 * i % 101).save(folder / f"{i}.jpg", quality=93)
    return fingerprints(list_images(folder))


def save(picture: Image.Image, path: Path, **options: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    picture.save(path, **options)
    return path


def test_fingerprint_of_a_photograph_stays_what_it_is() -> None:
    # Published weights carry fingerprints. A frequency that is nearly zero may have either sign on another machine.
    image = torch.from_numpy(skimage.data.astronaut()).movedim(-1, 0)
    kept = 0xC230399BF157938C
    assert (int(fingerprint(image), 16) ^ kept).bit_count() <= 1
    assert fingerprint(image) == fingerprint(image.float() / 255)


def test_lines_have_names_without_folders(tmp_path: Path) -> None:
    file = save(scene(0), tmp_path / "deep" / "a name.png")
    (line,) = fingerprints([file])
    digits, name = line.split(" ", 1)
    assert len(bytes.fromhex(digits)) == 8
    assert name == "a name.png"


ALTERED: dict[str, Callable[[Image.Image, Path], Path]] = {
    "same": lambda picture, path: save(picture, path.with_suffix(".png")),
    "jpeg": lambda picture, path: save(picture, path.with_suffix(".jpg"), quality=50),
    "webp": lambda picture, path: save(picture, path.with_suffix(".webp"), quality=50),
    "smaller": lambda picture, path: save(picture.resize((97, 64)), path.with_suffix(".png")),
    "larger": lambda picture, path: save(picture.resize((450, 300)), path.with_suffix(".png")),
    "darker": lambda picture, path: save(picture.point(lambda v: v // 8), path.with_suffix(".png")),
}


@pytest.mark.parametrize("altered", ALTERED)
def test_photographs_give_away_that_a_window_was_trained_on(
    altered: str, trained: list[str], tmp_path: Path
) -> None:
    files = [ALTERED[altered](scene(i), tmp_path / "test" / f"img{i}") for i in range(30)]
    found = find_overlaps(files, trained)
    assert [(o.file, o.trained, o.by) for o in found] == [
        (file, f"{i}.jpg", "picture") for i, file in enumerate(files)
    ]


def test_other_scenes_are_no_overlap(trained: list[str], tmp_path: Path) -> None:
    assert find_overlaps([save(scene(i), tmp_path / f"img{i}.png") for i in range(100, 160)], trained) == []


def test_upright_photographs_and_windows_of_wide_ones(tmp_path: Path) -> None:
    wide, upright = scene(0), scene(1, (200, 300))
    lines = fingerprints(
        [save(wide, tmp_path / "a.png"), save(upright.crop((0, 60, 200, 260)), tmp_path / "b.png")]
    )
    files = [save(window(wide, 50), tmp_path / "c.png"), save(upright, tmp_path / "d.png")]
    assert [(o.trained, o.by) for o in find_overlaps(files, lines)] == [
        ("a.png", "picture"),
        ("b.png", "picture"),
    ]


def test_name_alone_is_told_as_such_and_the_picture_goes_first(trained: list[str], tmp_path: Path) -> None:
    files = [
        save(scene(100), tmp_path / "test" / "7.PNG"),
        save(scene(8), tmp_path / "test" / "9.png"),
        save(scene(101), tmp_path / "test" / "30.png"),
    ]
    by_name, by_picture = find_overlaps(files, trained)
    assert (by_name.file, by_name.trained, by_name.by) == (files[0], "7.jpg", "name")
    assert by_name.bits > NEAR
    assert (by_picture.file, by_picture.trained, by_picture.by) == (files[1], "8.jpg", "picture")


def test_nothing_told_nothing_found(tmp_path: Path) -> None:
    assert find_overlaps([tmp_path / "not even there.png"], []) == []


@pytest.mark.parametrize("line", ["c3a9 1.png", "0123456789abcdef", "0123456789abcdef ", "x" * 16 + " 1.png"])
def test_other_lines_are_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"16 hexadecimal digits and a name but got '{line}'"):
        find_overlaps([save(scene(0), tmp_path / "a.png")], [line])


def test_unreadable_image_is_named(trained: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"Cannot read the image .*broken\.png"):
        find_overlaps([tmp_path / "broken.png"], trained)


@pytest.mark.skipif(
    not (LOL.is_dir() and PHOTOS.is_dir()), reason="needs ../shared/data: LOL-v1 and photographs"
)
def test_on_real_photographs(tmp_path: Path) -> None:
    originals = list_images(LOL)[::16]
    trained, copies = fingerprints(originals), tmp_path / "copies"
    files = []
    for file in originals:
        with Image.open(file) as picture:
            files.append(save(picture.resize((210, 210)), copies / f"copy_{file.stem}.webp", quality=60))
    found = find_overlaps(files, trained)
    assert [(o.file.stem, o.by) for o in found] == [(file.stem, "picture") for file in files]
    assert find_overlaps(list_images(PHOTOS)[::10], trained) == []
