"""Reader of the DARK FACE set in the layout of its distribution.

Yang et al., "Advancing Image Understanding in Poor Visibility Environments: A Collective Benchmark Study", IEEE TIP
2020.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detection.data.core import Dataset, Sample, file_sample, gathered, inside_image, numbers
from detection.data.yolo import image_files, without_image
from glare.reading import read_header, read_text


def read_dark_face(root: str | Path) -> Dataset:
    """Read the DARK FACE set; only the headers of the images are read, for their sizes.

    Args:
        root: the folder with ``image/`` and, under the same names, ``label/``: the number of faces on the first
            line, then ``x1 y1 x2 y2`` in pixels for each face. The label file of an image without faces says 0.

    Returns:
        The set of the one class ``face``, in the light ``night``. An image is left out if it cannot be read, or if its
        label file is missing, cannot be read or states a wrong number of faces. The `faults` list such images, label
        files without an image, and images whose boxes had to be cut.

    Raises:
        FileNotFoundError: if there are no images.

    >>> import tempfile
    >>> from PIL import Image
    >>> root = Path(tempfile.mkdtemp())
    >>> (root / "image").mkdir(), (root / "label").mkdir()
    (None, None)
    >>> Image.new("RGB", (60, 40)).save(root / "image" / "1.png")
    >>> _ = (root / "label" / "1.txt").write_text("1\\n5 6 15 18\\n")
    >>> read_dark_face(root).samples[0].boxes.tolist()
    [[5.0, 6.0, 15.0, 18.0]]
    """
    root = Path(root)
    files = image_files(root / "image")
    samples: list[Sample] = []
    told: list[tuple[str, str]] = []
    faults = without_image(root / "label", root / "image", files)
    for file in files:
        name = file.relative_to(root / "image")
        try:
            boxes = _faces((root / "label" / name).with_suffix(".txt"))
            header = read_header(file)
        except (OSError, ValueError) as error:
            faults.append(f"{name.as_posix()}: {error}")
            continue
        sample, cut = inside_image(file_sample(name.as_posix(), file, boxes, [0] * len(boxes)), *header.size)
        samples.append(replace(sample, light="night"))
        faults += cut
        if header.losses:
            told.append((sample.name, header.losses))
    left_out = len(files) - len(samples)
    faults += gathered(told)
    return Dataset(tuple(samples), ("face",), faults=tuple(faults), left_out=left_out, names=("face",))


def _faces(file: Path) -> list[list[float]]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file.parent.name}/{file.name}")
    count, *lines = [line.split() for line in read_text(file).splitlines() if line.strip()] or [[]]
    if [str(len(lines))] != count or any(len(line) != 4 for line in lines):
        raise ValueError(
            f"expected the number of faces and as many lines `x1 y1 x2 y2` but got {' '.join(count)!r} "
            f"and {len(lines)} lines"
        )
    return [numbers(line) for line in lines]
