"""Enhancement of videos frame by frame; time, coding of colour, sound and the other tracks stay as they are.

FFmpeg reads and writes, through PyAV. One thread decodes ahead and one encodes behind while the network computes.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

#: Suffixes that can be written, and FFmpeg's names of the containers.
CONTAINERS = {
    ".avi": "avi",
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".mov": "mov",
    ".mp4": "mp4",
    ".webm": "webm",
}
#: Suffix of the copy of any other video in a folder: QuickTime's container keeps time to the tick and takes nearly
#: all kinds of sound. The sound of Windows Media fits into AVI alone, the sound of Ogg not into QuickTime's.
OTHERWISE, EXCEPT = ".mov", {".asf": ".avi", ".ogv": ".mp4", ".wmv": ".avi"}
#: Suffixes of videos in a folder. A file that is named itself may have any suffix: FFmpeg looks at the content.
VIDEOS = CONTAINERS.keys() | {
    *(".264", ".3g2", ".3gp", ".asf", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".h265", ".hevc"),
    *(".m2t", ".m2ts", ".m2v", ".mjpeg", ".mjpg", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts"),
    *(".vob", ".wmv", ".y4m"),
}

EnhanceFrames: TypeAlias = Callable[[Tensor, Sequence[float]], Tensor]
"""Function from frames (N,3,H,W), uint8 or, for a video of more than 8 bits, float in [0,1], and the frames' times in
seconds to the enhanced frames."""

# Tags of a stream by ITU-T H.273: colour matrices, with the number that swscale gives each; 2 is "unknown".
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
_UNKNOWN, _RGB = 2, 0
_TRANSFERS_OF_HDR = {16: "PQ", 18: "HLG"}
_LIMITED, _FULL = 1, 2  # as FFmpeg numbers ranges; 0 is "unknown"
# Display matrix of a picture without rotation, in FFmpeg's fixed-point numbers.
_UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
# Tags of a file that describe how the file was written.
_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
# Containers with lists of what of a track is shown.
_WITH_EDITS = {"mov", "mp4"}
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
    with _opened(source) as film:
        video = _video(film)
        reader = _Reader(film, video, batch, report)
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
                    av.open(str(target), "w", format=container, options=_options(container, video)) as copy,
                    ThreadPoolExecutor(1) as behind,
                ):
                    writer = _Writer(copy, reader, chunk.frames[0], source)
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
    report.notes += writer.moved(target)
    return report


def is_whole(source: Path, target: Path) -> bool:
    """Return whether ``target`` has as many frames as ``source`` and neither is cut; nothing is decoded."""
    wanted, present = _scan(source), _scan(target)
    return wanted is not None and present is not None and 0 < wanted == present


def import_av() -> Any:
    """Import PyAV, or raise a ModuleNotFoundError that tells how to install PyAV."""
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "Videos need PyAV: pip install 'glare-torch[video]'.", name=error.name
        ) from error
    return av


def _opened(path: Path) -> Any:
    av = import_av()
    try:
        return av.open(str(path), metadata_errors="replace")
    except av.FFmpegError as error:
        raise ValueError(f"it cannot be read: {error.strerror}") from error


def _video(film: Any) -> Any:
    """Return the stream to enhance: the first video stream that is no cover picture."""
    from av.stream import Disposition

    for video in film.streams.video:
        if not video.disposition & Disposition.attached_pic and video.codec_context is not None:
            return video
    raise ValueError("there is no video in it")


def _scan(path: Path) -> int | None:
    """Count the frames of a video; return None if the video cannot be read or is cut."""
    if not path.is_file():
        return None
    try:
        with _opened(path) as film:
            reader = _Reader(film, _video(film), 1, Report())
            for _ in reader.packets():
                pass
            return None if reader.missing() else reader.shown
    except ValueError:
        return None


@dataclass
class _Chunk:
    frames: list[Any]
    stamps: list[int]  # time stamps of the frames, in units of the stream's time base
    packets: list[Any]  # packets of other streams between the frames
    pixels: Tensor  # (N,3,H,W)


class _Reader:
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

    def __iter__(self) -> Iterator[_Chunk]:
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

    def _chunk(self, frames: list[Any], packets: list[Any]) -> _Chunk:
        stamps = [self._stamp(frame) for frame in frames]
        pixels = torch.stack([self._pixels(frame) for frame in frames]) if frames else torch.empty(0, 3, 0, 0)
        return _Chunk(frames, stamps, packets, pixels)

    def _stamp(self, frame: Any) -> int:
        """Return the time stamp of a frame. An AVI tells only the time of decoding; a raw stream tells no time."""
        stamp = frame.dts if frame.pts is None else frame.pts
        if self.film.format.name == "avi" and stamp is not None:
            # An AVI begins with its first frame; FFmpeg 8 adds a decoder's delay, for H.264 even where there is none.
            if self.delay is None:
                self.delay = stamp - (self.video.start_time or 0)
            stamp -= self.delay
        if stamp is None:
            step = round(1 / (_rate(self.video) * self.video.time_base))
            stamp = 0 if self.last is None else self.last + max(1, step)
        self.last = int(stamp)
        return self.last

    def _pixels(self, frame: Any) -> Tensor:
        """Convert a frame to (3,H,W) uint8, or float32 in [0,1] where a colour has more than 8 bits."""
        # Not rgb48le: with these flags swscale 9 leaves all rows but the first at 0.
        form = "rgb24" if _bits(frame) == 8 else "gbrpf32le"
        size = self.video.width, self.video.height
        if (frame.width, frame.height) != size and not self.scaled:
            self.scaled = True
            self.report.notes.append(f"frames of another size are scaled to {size[0]}x{size[1]}")
        matrix = _matrix(frame)
        try:
            converted = frame.reformat(
                *size,
                format=form,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                src_color_range=_range(frame),
                dst_color_range=_FULL,
                interpolation=_exact(),
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
        if self.film.format.name in ("matroska,webm", "asf"):
            told = Fraction(self.film.duration or 0, 10**6)
        elif self.film.format.name == "avi":
            told = self.video.frames * self.video.time_base
        if self.end + Fraction(3, 2) / _rate(self.video) + Fraction(1, 10) < told:
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


class _Writer:
    """Writer of the copy, whose format follows from the first frame."""

    def __init__(self, copy: Any, reader: _Reader, first: Any, source: Path) -> None:
        film, video, report = reader.film, reader.video, reader.report
        self.copy, self.reader, self.video, self.first, self.report = copy, reader, video, first, report
        self.avi = copy.format.name == "avi"
        self.stamps: list[int] = []  # time stamps as written, in units of `self.base`
        self.durations: dict[int, int] = {}
        self.length = 0  # from the first frame to the end of the last
        self.held: Any = None  # the last packet, written once the next packet or the end is known
        self.start = 0
        # Times that each stream of the copy should have, in seconds.
        self.wanted: dict[int, list[Fraction]] = {}
        self._refuse()
        rate, self.base = _rate(video), video.time_base
        if self.avi:  # AVI knows no time but the number of a frame
            rate = _grid(source, video)
            self.base = 1 / rate
        self.stream = copy.add_stream(copy.default_video_codec, rate=rate)
        self.turns = 0
        self._describe()
        self.stream.disposition = video.disposition
        _keep_names(self.stream, video)
        report.notes += self._notes(first)
        self.copies = {}
        for stream in film.streams:
            if stream.index == video.index:
                self.wanted[self.stream.index] = []
            elif (copied := self._copied(stream)) is not None:
                self.copies[stream.index] = copied
                self.wanted[copied.index] = []
            else:
                name = (
                    getattr(stream.codec_context, "name", None) or getattr(stream, "name", None) or "unknown"
                )
                report.notes.append(f"left out: stream {stream.index} ({stream.type}, {name})")
        self.copy.metadata.update({k: v for k, v in film.metadata.items() if k.lower() not in _OF_THE_FILE})
        if chapters := film.chapters():
            self.copy.set_chapters(chapters)
        self.last: dict[int, int] = {}

    def _refuse(self) -> None:
        """Raise a ValueError for a video that would come out spoilt."""
        first = self.first
        if hdr := _TRANSFERS_OF_HDR.get(first.color_trc):
            raise ValueError(
                f"it is HDR video ({hdr}), whose light the network does not know: make it SDR first, as with "
                "FFmpeg's filters `zscale` and `tonemap`"
            )
        _matrix(first)

    def _describe(self) -> None:
        first, stream, video = self.first, self.stream, self.video
        context = stream.codec_context
        width, height, aspect = video.width, video.height, video.sample_aspect_ratio
        matrix = _display_matrix(first)
        if matrix is not None and self.avi:
            self.turns = round(first.rotation / 90) % 4
            if self.turns % 2:
                width, height, aspect = height, width, aspect and 1 / aspect
        elif matrix is not None:
            stream.set_display_matrix(matrix)
        if aspect and aspect != 1 and self.copy.format.name == "webm":
            # VP9 has no place for the pixel aspect, and PyAV does not tell the aspect to the container.
            width, height = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
            self.report.notes.append(f"its pixels of {aspect} are made square, at {width}x{height}")
        elif aspect:
            context.sample_aspect_ratio = aspect
        stream.width, stream.height = width, height
        stream.time_base = context.time_base = self.base
        # Colour has half the resolution, as everywhere; H.264 then takes even sides alone.
        odd = stream.codec.name == "libx264" and (width % 2 or height % 2)
        deep = "" if _bits(first) == 8 else "10le"
        stream.pix_fmt = ("yuv444p" if odd else "yuv420p") + deep
        if stream.pix_fmt not in {form.name for form in stream.codec.video_formats}:
            raise ValueError(
                f"its frames of more than 8 bits cannot be held by {self.copy.format.name}: "
                "let OUT end in .mkv, .mov or .mp4"
            )
        if stream.codec.name == "libx264":
            stream.options = {"crf": "18"}
        elif stream.codec.name == "libvpx-vp9":
            stream.options = {"crf": "18", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
        if self.avi:  # MPEG-4 Part 2 has no tags for colours, so players assume these
            stream.options = {"qmin": "2", "qmax": "2"}
            self.matrix, self.range = _matrix_of_size(width, height), _LIMITED
            return
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if first.format.is_rgb or first.format.has_palette:
            self.matrix, self.range = 1, _LIMITED
            context.colorspace, context.color_range = 1, _LIMITED
        else:
            self.matrix, self.range = _matrix(first), _range(first)
            context.colorspace = first.colorspace
            context.color_range = _FULL if self.range == _FULL else first.color_range

    def _notes(self, first: Any) -> list[str]:
        notes = []
        bits = max(component.bits for component in first.format.components)
        if bits > 10:
            notes.append(f"frames of {bits} bits are stored with 10")
        if _is_transparent(first):
            notes.append("transparency is left out")
        if first.interlaced_frame:
            notes.append("interlaced frames are stored as whole ones")
        if self.avi and first.rotation % 90:
            notes.append(f"the rotation by {first.rotation} degrees is left out")
        return notes

    def _copied(self, stream: Any) -> Any:
        """Add a stream to the copy that takes ``stream`` as it is; return None for a stream that is left out."""
        if stream.type not in ("audio", "subtitle") or stream.codec_context is None:
            return None
        if not _holds(self.copy.format.name, stream):
            if stream.type == "audio":
                kind = stream.codec_context.name
                others = ", ".join(suffix for suffix, name in CONTAINERS.items() if _holds(name, stream))
                raise ValueError(
                    f"its sound ({kind}) cannot be held by {self.copy.format.name}, only by {others or 'others'}"
                )
            return None
        copied = self.copy.add_stream_from_template(stream, opaque=True)
        copied.disposition = stream.disposition
        _keep_names(copied, stream)
        return copied

    def write(self, chunk: _Chunk, pixels: Tensor) -> None:
        """Write a chunk with ``pixels`` in place of its frames."""
        import av

        for frame, stamp, image in zip(chunk.frames, chunk.stamps, pixels, strict=True):
            image = torch.rot90(image, self.turns, (1, 2)).permute(1, 2, 0).contiguous().cpu()
            form = "rgb24" if image.dtype == torch.uint8 else "gbrpf32le"
            made = av.VideoFrame.from_ndarray(image.numpy(), form).reformat(
                width=self.stream.width,
                height=self.stream.height,
                format=self.stream.pix_fmt,
                src_colorspace=self.matrix,
                dst_colorspace=self.matrix,
                src_color_range=_FULL,
                dst_color_range=self.range,
                interpolation=_exact(),
            )
            self.wanted[self.stream.index].append(stamp * self.video.time_base)
            ticks = round(stamp * self.video.time_base / self.base)
            if self.stamps and ticks <= self.stamps[-1]:  # encoders take increasing time stamps alone
                ticks = self.stamps[-1] + 1
            if self.stamps and self.stamps[-1] in self.durations:
                self.durations[self.stamps[-1]] = ticks - self.stamps[-1]
            self.stamps.append(ticks)
            lasts = self.reader.lasts.pop(stamp, frame.duration or 0)
            self.durations[ticks] = round(lasts * self.video.time_base / self.base)
            self.length = ticks + self.durations[ticks] - self.stamps[0]
            made.pts, made.time_base = ticks, self.base
            self._mux(self.stream.encode(made))
        for packet in chunk.packets:
            if (copied := self.copies.get(packet.stream.index)) is not None:
                self._copy_packet(packet, copied)

    def _copy_packet(self, packet: Any, copied: Any) -> None:
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None:
            return  # only a damaged file has packets without time stamps behind its header
        # What an edit list hides, such as the lead of AAC or what was cut off on a telephone, would be played here.
        if packet.is_discard and self.copy.format.name not in _WITH_EDITS:
            return
        packet.pts = stamp
        packet.dts = stamp if packet.dts is None else packet.dts
        self.wanted[copied.index].append(stamp * packet.time_base)
        last = self.last.get(copied.index)
        if last is not None and packet.dts <= last:
            packet.dts = last + 1
            packet.pts = max(packet.pts, packet.dts)
        self.last[copied.index] = packet.dts
        packet.stream = copied
        self.copy.mux(packet)

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts, None) or packet.duration
            if self.held is None:
                self.start = packet.dts
            else:
                self.copy.mux(self.held)
            self.held = packet

    def finish(self) -> None:
        """Write the packets that the encoder still holds."""
        self._mux(self.stream.encode(None))
        if self.copy.format.name in _WITH_EDITS:
            # A track lasts from the decoding of the first frame to that of the last, and as long as the last is shown.
            length = self.video.duration or self.length
            self.held.duration = max(length - (self.held.dts - self.start), self.held.duration)
        self.copy.mux(self.held)

    def moved(self, target: Path) -> list[str]:
        """Read the written file, and return a line on each stream that moved in time."""
        found: dict[int, list[Fraction]] = {index: [] for index in self.wanted}
        with _opened(target) as film:
            kinds = [stream.type for stream in film.streams]
            for packet in film.demux():
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size and stamp is not None:
                    found[packet.stream.index].append(stamp * packet.time_base)
        lines = []
        for index, wanted in self.wanted.items():
            if not wanted:
                continue
            if index == self.stream.index:
                name, exact = "frames", Fraction(1, 10**6)
                pairs = list(zip(sorted(found[index]), sorted(wanted), strict=False))
            else:
                # Packets of sound may be cut otherwise, and the clock of sound ticks with its samples.
                name, exact = f"stream {index} ({kinds[index]})", Fraction(1, 8000)
                pairs = [(min(found[index]), min(wanted))] if found[index] else []
            shifts = [new - old for new, old in pairs]
            most = max(shifts, key=abs, default=Fraction(0))
            if abs(most) > exact:
                lines.append(f"{name} moved by up to {1000 * float(most):+.4g} ms")
        lasts = self.length - (self.stamps[-1] - self.stamps[0])
        if self.avi and lasts > 1:
            tick = 1000 * float(self.base)
            lines.append(f"the last frame is shown for {tick:.4g} ms, not for {tick * lasts:.4g} ms")
        return lines


def _rate(video: Any) -> Fraction:
    return Fraction(video.average_rate or video.guessed_rate or 25)


def _grid(source: Path, video: Any) -> Fraction:
    """Find the frame rate whose grid is nearest to the time stamps of a video; of several, the first.

    The average rate of a clip of 30, then 24 frames a second fits neither part; FFmpeg's guess, or a common multiple,
    fits both.
    """
    with _opened(source) as film:
        stamps = sorted(
            (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            for packet in film.demux(film.streams[video.index])
            if packet.size and (packet.pts is not None or packet.dts is not None)
        )
    rates = [Fraction(video.base_rate or _rate(video)), _rate(video), *(Fraction(n) for n in (60, 120, 240))]
    if stamps[-1:] > stamps[:1]:
        rates.append((len(stamps) - 1) / (stamps[-1] - stamps[0]))
    # MPEG-4 Part 2 counts at most 65535 ticks a second.
    rates = [1 / (1 / rate).limit_denominator(65535) for rate in rates if rate <= 240]

    def moved(rate: Fraction) -> Fraction:
        places = list(itertools.accumulate((round(s * rate) for s in stamps), lambda a, b: max(a + 1, b)))
        return max(
            (abs(place / rate - stamp) for place, stamp in zip(places, stamps, strict=True)),
            default=Fraction(0),
        )

    return min(rates, key=lambda rate: max(moved(rate), Fraction(1, 1000)))  # less than that nobody sees


def _bits(frame: Any) -> int:
    """Return how many bits of a colour are kept: 8 or 10."""
    return 10 if max(component.bits for component in frame.format.components) > 8 else 8


def _matrix(frame: Any) -> int:
    """Return swscale's number of the matrix of a frame's colours; untagged frames have the matrix of their size."""
    if frame.format.is_rgb or frame.format.has_palette:
        return 1
    if frame.colorspace in (_UNKNOWN, _RGB):
        return _matrix_of_size(frame.width, frame.height)
    try:
        return _MATRICES[frame.colorspace]
    except KeyError:
        raise ValueError(
            f"its colours are coded by matrix {frame.colorspace} of ITU-T H.273, which FFmpeg's scaler does not know"
        ) from None


def _matrix_of_size(width: int, height: int) -> int:
    """Return the matrix of untagged colours, as players assume: BT.709 of high definition, BT.601 of less."""
    return 1 if height >= 720 or width >= 1280 else 5


def _range(frame: Any) -> int:
    full = frame.color_range == _FULL or frame.format.name.startswith("yuvj")
    return _FULL if full or frame.format.is_rgb or frame.format.has_palette else _LIMITED


def _exact() -> int:
    """Return swscale's flags for conversions that round, and that interpolate colour of half the resolution."""
    from av.video.reformatter import Interpolation

    return int(
        Interpolation.BILINEAR
        | Interpolation.ACCURATE_RND
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.FULL_CHR_H_INP
    )


def _display_matrix(frame: Any) -> list[int] | None:
    """Return FFmpeg's display matrix, which turns or mirrors a picture; None for an upright picture."""
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])
    except KeyError:
        return None
    numbers = [int(number) for number in np.frombuffer(data, np.int32)]
    return None if tuple(numbers) == _UPRIGHT else numbers


def _is_transparent(frame: Any) -> bool:
    if not any(component.is_alpha for component in frame.format.components):
        return False
    # A GIF always has alpha, and seldom uses it.
    return bool(frame.to_ndarray(format="rgba")[..., 3].min() < 255)


def _holds(container: str, stream: Any) -> bool:
    """Return whether a container takes a stream as it is: some say so only when their head is written."""
    av = import_av()
    with av.open(io.BytesIO(), "w", format=container) as file:
        try:
            file.add_stream_from_template(stream, opaque=True)
            file.start_encoding()
        except (ValueError, av.FFmpegError):
            return False
    return True


def _options(container: str, video: Any) -> dict[str, str]:
    """Return what FFmpeg is to do otherwise than it does unasked."""
    if container in _WITH_EDITS:  # tell when a track begins by the clock of the frames, not in milliseconds
        ticks = video.time_base.denominator
        return {"movie_timescale": str(ticks * -(-1000 // ticks))}
    if container == "avi":  # not move all frames on where sound begins before them
        return {"avoid_negative_ts": "disabled"}
    return {}


def _keep_names(copied: Any, stream: Any) -> None:
    # FFmpeg reads the title that it writes into MP4 and MOV as `name`.
    names = {"name": "title", "language": "language", "title": "title", "handler_name": "handler_name"}
    copied.metadata.update({names[key]: value for key, value in stream.metadata.items() if key in names})
