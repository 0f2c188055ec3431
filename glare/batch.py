"""Many images and videos at once: ``glare enhance``.

Threads read ahead and write behind while the network computes; images of one size go through it together. Started by
``accelerate launch`` or ``torchrun``, each process takes its share of the files.
"""

from __future__ import annotations

import glob
import itertools
import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor
from tqdm import tqdm

from glare.files import IMAGE_SUFFIXES, WRITTEN_SUFFIXES, whole_file
from glare.image import as_batch
from glare.reading import (
    RAW_SUFFIXES,
    develop,
    eight_bits,
    find_files,
    header_of,
    is_raw,
    left_alongside,
    lossy_form,
    open_image,
)
from glare.steady import Steady
from glare.transform import GLAREEnhance
from glare.video import CONTAINERS, EXCEPT, OTHERWISE, VIDEOS, EnhanceFrames, enhance_video, is_whole

Job: TypeAlias = tuple[Path, Path]
"""Which file becomes which."""
Enhance: TypeAlias = Callable[[Tensor], Tensor]
"""(B,3,H,W) uint8 -> the same: a `GLAREEnhance`."""

_T = TypeVar("_T")
_R = TypeVar("_R")
READ_SUFFIXES = IMAGE_SUFFIXES | RAW_SUFFIXES | VIDEOS
_THREADS = 2  # that read, and as many that write: either takes far less than the network
# Ways to pack a TIFF of grey or colour; the others lose something, or take black and white alone.
_LOSSLESS = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd"}
# Pillow tells of a broken PNG by a SyntaxError.
_UNREADABLE = (OSError, ValueError, ImportError, SyntaxError, PIL.Image.DecompressionBombError)


def find_jobs(inputs: Sequence[str], output: Path) -> list[Job]:
    """Return which file becomes which.

    Args:
        inputs: images, videos, cameras' raw files and images of kinds that are not written (AVIF, JPEG 2000), which
            become PNG, folders, which are walked, and patterns such as
            ``night/**/*.jpg``; the tree below a folder, or below the part of a pattern without wildcards, is kept.
        output: a folder; or, where ``inputs`` is one file, the file that it becomes.

    Raises:
        FileNotFoundError: if an input is not there, or a pattern fits nothing.
        ValueError: if a folder holds nothing to enhance, ``output`` is an input, has a suffix that cannot be
            written or, for more than one file, that of one, or lies below a file, or two files would become the same.
    """
    if len(inputs) == 1 and Path(inputs[0]).is_file():
        source = Path(inputs[0])
        target = output / written_as(source).name if output.is_dir() or not output.suffix else output
        images = IMAGE_SUFFIXES | RAW_SUFFIXES
        suffixes = WRITTEN_SUFFIXES if source.suffix.lower() in images else CONTAINERS.keys()
        if target.suffix.lower() not in suffixes:
            unknown = source.suffix.lower() not in READ_SUFFIXES
            raise ValueError(
                (
                    f"Expected an image or a video but got {source}. If it is a video all the same: "
                    if unknown
                    else ""
                )
                + f"Expected OUT to be a folder or to end in one of {', '.join(sorted(suffixes))} but got {target}."
            )
        if target.exists() and target.samefile(source):
            raise ValueError(f"Expected OUT to be another file than IN but both are {source}.")
        _check_folder(target.parent)
        return [(source, target)]
    jobs: dict[Path, Path] = {}
    for name in inputs:
        root, files = _files(name, output)
        for source in files:
            target = output / written_as(source).relative_to(root)
            if jobs.setdefault(target, source) != source:
                raise ValueError(
                    f"Both {jobs[target]} and {source} would become {target}: rename one of them."
                )
            if target.exists() and target.samefile(source):
                raise ValueError(f"Expected OUT to be another folder than IN but {source} lies in both.")
    if output.suffix.lower() in WRITTEN_SUFFIXES | CONTAINERS.keys() and not output.is_dir():
        raise ValueError(f"Expected OUT to be a folder, as IN is more than one file, but got {output}.")
    _check_folder(output)
    return [(source, target) for target, source in jobs.items()]


def _check_folder(folder: Path) -> None:
    """Raise a ValueError where a folder cannot be made, because a file has its name or that of one above it."""
    for part in (folder, *folder.parents):
        if part.exists():
            if not part.is_dir():
                raise ValueError(f"Expected OUT to be or to lie in a folder but {part} is a file.")
            return


def written_as(source: Path) -> Path:
    """The name of what a file becomes: its own where files of its kind are written."""
    suffix = source.suffix.lower()
    if suffix in RAW_SUFFIXES | IMAGE_SUFFIXES - WRITTEN_SUFFIXES:
        return source.with_suffix(".png")
    if suffix not in VIDEOS or suffix in CONTAINERS:
        return source
    return source.with_suffix(EXCEPT.get(suffix, OTHERWISE))


def _files(name: str, output: Path) -> tuple[Path, list[Path]]:
    """Return the files that ``name`` stands for, and the folder below which the tree is kept."""
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() not in READ_SUFFIXES:
            raise ValueError(f"Expected an image or a video but got {path}.")
        return path.parent, [path]
    if path.is_dir():
        if path.resolve() == output.resolve():
            raise ValueError(f"Expected OUT to be another folder than IN but both are {path}.")
        root, found = path, find_files(path, READ_SUFFIXES)
        for line in left_alongside(path):
            _tell(f"{path}: {line}")
    elif glob.has_magic(name):
        fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
        root, found = Path(*fixed), sorted(Path(file) for file in glob.glob(name, recursive=True))
    else:
        raise FileNotFoundError(f"No such file or folder: {path}")
    # Results of an earlier run in a folder inside IN are no input.
    within = root.resolve() in output.resolve().parents
    files = [
        file
        for file in found
        if file.suffix.lower() in READ_SUFFIXES
        and file.is_file()
        and not file.name.startswith("._")
        and not (within and output.resolve() in file.resolve().parents)
    ]
    if not files:
        raise ValueError(f"No images in {name}: looked for {', '.join(sorted(READ_SUFFIXES))}.")
    return root, files


def enhance_files(
    enhance: Enhance, jobs: Sequence[Job], *, batch: int = 1, resume: bool = False, steady: bool = True
) -> list[str]:
    """Enhance files; a bad one stops nothing, and nothing is left half written.

    Images keep their EXIF data and colour profile; videos keep what `enhance_video` names, and what they do not keep
    is told on stderr. Under ``accelerate launch`` or ``torchrun`` every process calls this with the same jobs and does
    its share.

    Args:
        enhance: the transform, such as `GLAREEnhance`.
        jobs: which file becomes which, see `find_jobs`; folders are made.
        batch: images of the same size, or frames, that go through the network together.
        steady: let videos not flicker, see `Steady`, where ``enhance`` is a `GLAREEnhance`; otherwise each frame is
            enhanced as the image that it is.
        resume: leave alone what is there already and whole: an image that can be read and has the size of its
            source, a video with as many frames.

    Returns:
        a line for each file of any process that failed, in the order of ``jobs``.

    Raises:
        ValueError: if ``batch`` is not positive.
    """
    if batch < 1:
        raise ValueError(f"Expected argument `batch` to be positive but got {batch}.")
    rank, processes = (int(os.environ.get(name, number)) for name, number in (("RANK", 0), ("WORLD_SIZE", 1)))
    share = jobs[rank::processes]
    if processes > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    failed: dict[Path, str] = {}
    with tqdm(total=len(share), unit="file", disable=None if rank == 0 else True) as bar:

        def done(source: Path, error: BaseException | None = None) -> None:
            if error is not None:
                failed[source] = f"{source}: {error}"
            bar.update()

        images = [job for job in share if job[1].suffix.lower() in WRITTEN_SUFFIXES]
        _enhance_images(enhance, images, batch, resume, done)
        for source, target in share:
            if target.suffix.lower() in CONTAINERS:
                try:
                    if not (resume and is_whole(source, target)):
                        frames = _of_frames(enhance, steady)
                        _enhance_video(frames, source, target, batch, quiet=rank > 0)
                    done(source)
                except _UNREADABLE as error:
                    done(source, error)
    if processes > 1:
        # A launcher ends all processes when one ends with an error, so nobody ends before everybody is done.
        shares: list[dict[Path, str]] = [{} for _ in range(processes)]
        torch.distributed.all_gather_object(shares, failed)
        torch.distributed.destroy_process_group()
        failed = {source: line for one in shares for source, line in one.items()}
    return [failed[source] for source, _ in jobs if source in failed]


def _enhance_images(
    enhance: Enhance,
    jobs: Sequence[Job],
    batch: int,
    resume: bool,
    done: Callable[[Path, BaseException | None], None],
) -> None:
    # Images that were read and not yet enhanced, by size; at most four batches, so that rare sizes do not pile up.
    groups: dict[torch.Size, list[tuple[Path, Tensor, Callable[[Tensor], None]]]] = {}
    writing: deque[tuple[Path, Future[None]]] = deque()
    deep: list[str] = []

    def finish(leave: int) -> None:
        while len(writing) > leave:
            source, future = writing.popleft()
            error = future.exception()
            if error is not None and not isinstance(error, _UNREADABLE):
                raise error
            done(source, error)

    def flush(size: torch.Size) -> None:
        group = groups.pop(size)
        try:
            results = enhance(torch.cat([pixels for _, pixels, _ in group]))
        except ValueError as error:  # NaN, of one image of them
            if len(group) == 1:
                done(group[0][0], error)
            for one in group if len(group) > 1 else ():
                groups[size] = [one]
                flush(size)
            return
        for (source, _, save), result in zip(group, results, strict=True):
            writing.append((source, writers.submit(save, result[None])))
        finish(leave=2 * batch + _THREADS)

    with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
        for (source, _), future in _ahead(
            readers, lambda job: _read(*job, resume, deep), jobs, batch + _THREADS
        ):
            try:
                found = future.result()
            except _UNREADABLE as error:
                done(source, error)
                continue
            if found is None:
                done(source, None)
                continue
            size = found[0].shape
            groups.setdefault(size, []).append((source, *found))
            if len(groups[size]) == batch:
                flush(size)
            elif sum(map(len, groups.values())) >= 4 * batch:
                flush(next(iter(groups)))
        while groups:
            flush(next(iter(groups)))
        finish(leave=0)
    if deep:
        _tell(deep[0] + (f", and {len(deep) - 1} more like it" if len(deep) > 1 else ""))


def _tell(line: str) -> None:
    tqdm.write(line, file=sys.stderr)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[_T], _R], items: Iterable[_T], depth: int
) -> Iterator[tuple[_T, Future[_R]]]:
    """Yield each item, in order, and the future of its result, begun up to ``depth`` items before it is asked for."""
    begun: deque[tuple[_T, Future[_R]]] = deque()
    for item in items:
        begun.append((item, pool.submit(function, item)))
        if len(begun) > depth:
            yield begun.popleft()
    yield from begun


def _read(
    source: Path, target: Path, resume: bool, deep: list[str]
) -> tuple[Tensor, Callable[[Tensor], None]] | None:
    """The pixels (1,3,H,W) and what saves such pixels as ``target``; None if that is there and to be left.

    A line is added to ``deep`` where the file has more than 8 bits.
    """
    lossless = False
    if source.suffix.lower() in RAW_SUFFIXES:
        if resume and _is_whole_image(target):
            return None
        file = image = develop(source)
    else:
        with open_image(source) as file:
            if resume and _is_whole_image(target, file.size):
                return None
            if is_raw(file):
                file = image = develop(source)
            else:
                _check_single(file)
                depth = header_of(file).depth
                lossless = file.format == "WEBP" and not lossy_form(file)
                file.load()
                image = eight_bits(file)
                if depth:
                    deep.append(f"{source}: {depth}, rounded to 8")
                    image.info.update(file.info)
    # The stored pixels are enhanced and the orientation stays in the EXIF data, so both still fit. A TIFF
    # keeps none: Pillow turns it upright, and its tags also tell how the old pixels were stored.
    exif = file.info.get("exif", b"")
    profile = file.info.get("icc_profile")
    form = PIL.Image.registered_extensions()[target.suffix.lower()]
    if form == "BMP":  # which has no EXIF data
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode in ("CMYK", "LA", "PA", "YCbCr", "1"):
        image = image.convert("RGBA" if "A" in image.mode else "RGB")
        profile = None  # it belonged to the old colour space
    pixels, restore = as_batch(image)

    def save(enhanced: Tensor) -> None:
        result = restore(enhanced)
        assert isinstance(result, PIL.Image.Image)
        if form in ("JPEG", "BMP") and result.mode in ("RGBA", "P"):
            result = result.convert("RGB")
        # Whatever the writers take, the network goes without. Of a PNG's values, differences of neighbours, it is
        # the code for their frequencies that makes a photograph small; the search for repetitions takes most of
        # the time and gains nothing.
        how: dict[str, Any] = {"quality": 95, "compress_type": zlib.Z_RLE}
        if form == "TIFF":  # packed as it came, but without loss
            packed = file.info.get("compression") if file.format == "TIFF" else "raw"
            how = {"compression": packed if packed in _LOSSLESS else "tiff_lzw"}
        if form == "WEBP":  # one without loss stays so
            how["lossless"] = lossless
        with whole_file(target) as path:
            result.save(path, format=form, exif=exif, icc_profile=profile, **how)

    return pixels, save


def _check_single(image: PIL.Image.Image) -> None:
    """Raise ValueError where more is in a file than the one picture that would be enhanced.

    What cameras add to a JPEG (MPO), a preview or a second view, is no loss.
    """
    if (count := header_of(image).pictures) > 1:
        raise ValueError(
            f"it holds {count} pictures, of which all but the first would be lost: split it first"
        )


def _is_whole_image(path: Path, size: tuple[int, int] | None = None) -> bool:
    try:
        with PIL.Image.open(path) as image:
            image.load()
            # A TIFF is turned upright when it is read, so the sides may have changed places.
            return size is None or sorted(image.size) == sorted(size)
    except _UNREADABLE:
        return False


def _of_frames(enhance: Enhance, steady: bool) -> EnhanceFrames:
    """What enhances one video."""
    if steady and isinstance(enhance, GLAREEnhance):
        return Steady(enhance)
    return lambda frames, _: enhance(frames)


def _enhance_video(enhance: EnhanceFrames, source: Path, target: Path, batch: int, quiet: bool) -> None:
    """Enhance a video and tell what is other in the result; what could be read of a damaged one is kept."""
    with whole_file(target) as path:
        report = enhance_video(
            enhance, source, path, CONTAINERS[target.suffix.lower()], batch=batch, quiet=quiet
        )
    for note in report.notes:
        tqdm.write(f"{source}: {note}", file=sys.stderr)
    if report.faults:
        raise ValueError(f"{'; '.join(report.faults)}. The rest is in {target}")
