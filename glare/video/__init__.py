"""Enhancement of videos frame by frame; time, coding of colour, sound and the other tracks stay as they are.

FFmpeg reads and writes, through PyAV. One thread decodes ahead and one encodes behind while the network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from torch import Tensor
from tqdm import tqdm

from glare.video.reading import Reader, Report, import_av, opened, video_of
from glare.video.writing import CONTAINERS, EXCEPT, OTHERWISE, VIDEOS, Writer, options_of

__all__ = [
    "CONTAINERS",
    "EXCEPT",
    "OTHERWISE",
    "VIDEOS",
    "EnhanceFrames",
    "Report",
    "enhance_video",
    "import_av",
    "is_whole",
]

EnhanceFrames: TypeAlias = Callable[[Tensor, Sequence[float]], Tensor]
"""Function from frames (N,3,H,W), uint8 or, for a video of more than 8 bits, float in [0,1], and the frames' times in
seconds to the enhanced frames."""


def enhance_video(
    enhance: EnhanceFrames, source: Path, target: Path, container: str, *, batch: int = 1, quiet: bool = False
) -> Report:
    """Enhance the frames of a video.

    Time stamps, durations, pixel aspect, rotation, range and matrix of the colours, sound, subtitles, chapters,
    languages and default flags of the tracks stay; the report names properties that the container cannot hold. Frames
    of more than 8 bits are enhanced as floats and stored with 10.

    Args:
        enhance: the transform.
        source: a file that FFmpeg reads.
        target: the file to write.
        container: one of the values of `CONTAINERS`.
        batch: how many frames are enhanced together.
        quiet: whether to show no progress bar.

    Raises:
        ModuleNotFoundError: if PyAV is not installed.
        ValueError: if the source cannot be read, holds no video or a kind of video that would be spoilt, or has sound
            that the container cannot hold.
    """
    av = import_av()
    report = Report()
    with opened(source) as film:
        video = video_of(film)
        reader = Reader(film, video, batch, report)
        chunks = iter(reader)
        # A thread ends before the file that it works on is closed, also where an error or Ctrl-C ends the run.
        with (
            ThreadPoolExecutor(1) as ahead,
            tqdm(total=video.frames or None, unit="frame", leave=False, disable=quiet or None) as bar,
        ):
            chunk = next(chunks, None)
            if chunk is None or not chunk.frames:
                raise ValueError("it cannot be read: no frame of it can be decoded")
            try:
                with (
                    av.open(str(target), "w", format=container, options=options_of(container, video)) as copy,
                    ThreadPoolExecutor(1) as behind,
                ):
                    writer = Writer(copy, reader, chunk.frames[0], source)
                    writing: Future[None] | None = None
                    while chunk is not None:
                        coming = ahead.submit(next, chunks, None)
                        times = [float(stamp * video.time_base) for stamp in chunk.stamps]
                        pixels = enhance(chunk.pixels, times) if chunk.frames else chunk.pixels
                        if writing is not None:
                            writing.result()
                        writing = behind.submit(writer.write, chunk, pixels)
                        bar.update(len(chunk.frames))
                        chunk = coming.result()
                    assert writing is not None
                    writing.result()
                    writer.finish()
            except av.FFmpegError as error:
                raise ValueError(f"its copy cannot be written: {error.strerror}") from error
        reader.count()
    report.notes += writer.changes(target)
    return report


def is_whole(source: Path, target: Path) -> bool:
    """Return whether ``target`` has as many frames as ``source`` and neither is cut; nothing is decoded."""
    wanted, present = _scan(source), _scan(target)
    return wanted is not None and present is not None and 0 < wanted == present


def _scan(path: Path) -> int | None:
    """Count the frames of a video; return None if the video cannot be read or is cut."""
    if not path.is_file():
        return None
    try:
        with opened(path) as film:
            reader = Reader(film, video_of(film), 1, Report())
            for _ in reader.packets():
                pass
            return None if reader.missing() else reader.shown
    except ValueError:
        return None
