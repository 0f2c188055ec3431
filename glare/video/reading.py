"""Reading of a video: its frames in chunks, with their times, and an account of what could not be read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glare.video.colour import FULL, bits_of, exact_scaling, matrix_of, range_of

# Codecs with packets that show no frame, so that the number of packets is not the number of frames.
_HIDDEN_FRAMES = {"vp8"}


@dataclass
class Report:
    """Report on an enhanced video.

    Attributes:
        notes: properties of the source that the result holds in another way, or not at all.
        faults: parts of the source that could not be read.
    """

    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def import_av() -> Any:
    """Import PyAV, or raise a ModuleNotFoundError that tells how to install PyAV."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Videos need PyAV: pip install 'glare-torch[video]'.", name=error.name
        ) from error
    return av


def opened(path: Path) -> Any:
    """Open a video for reading, or raise a ValueError that tells why it cannot be read."""
    av = import_av()
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def video_of(film: Any) -> Any:
    """Return the stream to enhance: the first video stream that is no cover picture."""
    from av.stream import Disposition

    for video in film.streams.video:
        if not video.disposition & Disposition.attached_pic and video.codec_context is not None:
            return video
    raise ValueError("there is no video in it")


def rate_of(video: Any) -> Fraction:
    """Return how many frames a second a stream has; 25 where nothing tells."""
    return Fraction(video.average_rate or video.guessed_rate or 25)


@dataclass
class Chunk:
    """Frames that are enhanced together, and what lies between them."""

    frames: list[Any]
    stamps: list[int]  # time stamps of the frames, in units of the stream's time base
    packets: list[Any]  # packets of other streams between the frames
    pixels: Tensor  # (N,3,H,W)


class Reader:
    """Reader of a video's frames in chunks, which keeps account of losses."""

    def __init__(self, film: Any, video: Any, batch: int, report: Report) -> None:
        self.film, self.video, self.batch, self.report = film, video, batch, report
        self.read = self.shown = self.decoded = self.damaged = 0
        self.end = Fraction(0)  # end of all packets so far, in seconds
        self.interlaced = self.scaled = False
        self.stopped = ""
        self.seen: set[int | None] = set()
        # Durations of frames by their packets; a decoder's durations are guesses.
        self.lasts: dict[int, int] = {}
        self.last: int | None = None
        self.delay: int | None = None

    def packets(self) -> Iterator[Any]:
        """Yield the packets that hold something, and the empty packets that end the video stream."""
        av = import_av()
        packets = self.film.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self.stopped = str(error.strerror)
                return
            if packet is None:
                return
            if packet.size:
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None:
                    self.end = max(self.end, (stamp + (packet.duration or 0)) * packet.time_base)
                if packet.stream.index == self.video.index:
                    self.read += 1
                    self.shown += not packet.is_discard
                    self.seen.add(packet.pts)
                    if packet.pts is not None and packet.duration:
                        self.lasts[packet.pts] = packet.duration
                yield packet
            elif packet.stream.index == self.video.index:
                yield packet

    def __iter__(self) -> Iterator[Chunk]:
        frames: list[Any] = []
        packets: list[Any] = []
        for packet in self.packets():
            if packet.stream.index != self.video.index:
                packets.append(packet)
                continue
            for frame in self._decoded(packet):
                frames.append(frame)
                if len(frames) == self.batch:
                    yield self._chunk(frames, packets)
                    frames, packets = [], []
        yield self._chunk(frames, packets)

    def _decoded(self, packet: Any) -> list[Any]:
        av = import_av()
        try:
            frames: list[Any] = packet.decode()
        except av.FFmpegError:  # a damaged packet; later packets may be whole, and `count` reports the loss
            return []
        self.decoded += len(frames)
        self.damaged += sum(frame.is_corrupt for frame in frames)
        self.interlaced |= any(frame.interlaced_frame for frame in frames)
        return frames

    def _chunk(self, frames: list[Any], packets: list[Any]) -> Chunk:
        stamps = [self._stamp(frame) for frame in frames]
        pixels = torch.stack([self._pixels(frame) for frame in frames]) if frames else torch.empty(0, 3, 0, 0)
        return Chunk(frames, stamps, packets, pixels)

    def _stamp(self, frame: Any) -> int:
        """Return the time stamp of a frame. An AVI tells only the time of decoding; a raw stream tells no time."""
        stamp = frame.dts if frame.pts is None else frame.pts
        if self.film.format.name == "avi" and stamp is not None:
            # An AVI begins with its first frame; FFmpeg 8 adds a decoder's delay, for H.264 even where there is none.
            if self.delay is None:
                self.delay = stamp - (self.video.start_time or 0)
            stamp -= self.delay
        if stamp is None:
            step = round(1 / (rate_of(self.video) * self.video.time_base))
            stamp = 0 if self.last is None else self.last + max(1, step)
        self.last = int(stamp)
        return self.last

    def _pixels(self, frame: Any) -> Tensor:
        """Convert a frame to (3,H,W) uint8, or float32 in [0,1] where a colour has more than 8 bits."""
        # Not rgb48le: with these flags swscale 9 leaves all rows but the first at 0.
        form = "rgb24" if bits_of(frame) == 8 else "gbrpf32le"
        size = self.video.width, self.video.height
        if (frame.width, frame.height) != size and not self.scaled:
            self.scaled = True
            self.report.notes.append(f"frames of another size are scaled to {size[0]}x{size[1]}")
        matrix = matrix_of(frame)
        try:
            converted = frame.reformat(
                *size,
                format=form,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=range_of(frame),
                dst_color_range=FULL,
                interpolation=exact_scaling(),
            )
        except import_av().FFmpegError as error:
            raise ValueError(f"its frames ({frame.format.name}) cannot be read: {error.strerror}") from error
        return torch.from_numpy(converted.to_ndarray()).permute(2, 0, 1)

    def missing(self) -> str:
        """Describe what the file lacks, as far as its index or its header tells; empty if nothing is missing."""
        if self.stopped:
            return f"reading it stopped at {float(self.end):.2f} s: {self.stopped}"
        indexed = len(self.video.index_entries)
        if self.read < indexed:
            return f"only {self.read} of the {indexed} frames in its index are there"
        # The index of Matroska lists a part of the frames, and is read for seeking.
        if self.film.format.name == "matroska,webm":
            with contextlib.suppress(import_av().FFmpegError):
                self.film.seek(0, stream=self.video)
            for entry in self.video.index_entries:
                if entry.timestamp not in self.seen:
                    return f"frames about {float(entry.timestamp * self.video.time_base):.2f} s are missing"
        # The headers of these containers hold the duration; for others FFmpeg measures the packets that are there.
        told = Fraction(0)
        if self.film.format.name in ("matroska,webm", "flv"):
            told = Fraction(self.film.duration or 0, 10**6)
        elif self.film.format.name == "avi":
            told = self.video.frames * self.video.time_base
        if self.end + Fraction(3, 2) / rate_of(self.video) + Fraction(1, 10) < told:
            return f"it ends at {float(self.end):.2f} of {float(told):.2f} s"
        return ""

    def count(self) -> None:
        """Report the parts of the video that could not be read."""
        faults = self.report.faults
        if missing := self.missing():
            faults.append(missing)
        # A packet of interlaced video may hold half a frame.
        packets_are_frames = self.video.codec_context.name not in _HIDDEN_FRAMES and not self.interlaced
        if packets_are_frames and self.decoded < self.shown:
            faults.append(f"only {self.decoded} of {self.shown} frames can be decoded")
        if self.damaged:
            faults.append(f"{self.damaged} frames are damaged")
