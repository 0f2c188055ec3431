"""Writing of a video: frames at the times of the source, with its colours, sound and other tracks."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glare.video.colour import FULL, LIMITED, bits_of, exact_scaling, matrix_of, matrix_of_size, range_of
from glare.video.reading import Chunk, Reader, Report, import_av, opened, rate_of

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

_TRANSFERS_OF_HDR = {16: "PQ", 18: "HLG"}  # by ITU-T H.273
# Display matrix of a picture without rotation, in FFmpeg's fixed-point numbers.
_UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
# Tags of a file that describe how the file was written.
_OF_THE_FILE = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
# Languages that FFmpeg writes into QuickTime's container in the other spelling of ISO 639-2 alone.
_IN_QUICKTIME = {
    "bod": "tib",
    "cym": "wel",
    "cze": "ces",
    "deu": "ger",
    "ell": "gre",
    "eus": "baq",
    "fas": "per",
    "fre": "fra",
    "hye": "arm",
    "isl": "ice",
    "kat": "geo",
    "mkd": "mac",
    "msa": "may",
    "mya": "bur",
    "nld": "dut",
    "rum": "ron",
    "slo": "slk",
    "sqi": "alb",
    "zho": "chi",
}
# Matroska and WebM count in milliseconds; what that moves, in seconds, is not worth a line for every clip.
_ROUNDING = Fraction(1, 2000)
# Containers with lists of what of a track is shown.
_WITH_EDITS = {"mov", "mp4"}


class Writer:
    """Writer of the copy, whose format follows from the first frame."""

    def __init__(self, copy: Any, reader: Reader, first: Any, source: Path) -> None:
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
        self.languages: dict[int, str] = {}
        self._refuse()
        rate, self.base = rate_of(video), video.time_base
        if self.avi:  # AVI knows no time but the number of a frame
            rate = _grid(source, video)
            self.base = 1 / rate
        self.stream = copy.add_stream(copy.default_video_codec, rate=rate)
        self.upright: Callable[[Tensor], Tensor] = lambda image: image
        self._describe()
        self.stream.disposition = video.disposition
        self._keep_names(self.stream, video)
        report.notes += self._notes(first)
        self.copies = {}
        for stream in film.streams:
            if stream.index == video.index:
                self.wanted[self.stream.index] = []
            elif (copied := self._copied(stream)) is not None:
                self.copies[stream.index] = copied
                self.wanted[copied.index] = []
            elif not _tells_chapters(film, stream):
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
        matrix_of(first)

    def _describe(self) -> None:
        first, stream, video = self.first, self.stream, self.video
        context = stream.codec_context
        width, height, aspect = video.width, video.height, video.sample_aspect_ratio
        matrix = _display_matrix(first)
        if matrix is not None and self.avi:
            swapped, self.upright = _made_upright(matrix)
            if swapped:
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
        deep = "" if bits_of(first) == 8 else "10le"
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
            self.matrix, self.range = matrix_of_size(width, height), LIMITED
            return
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if first.format.is_rgb or first.format.has_palette:
            self.matrix, self.range = 1, LIMITED
            context.colorspace, context.color_range = 1, LIMITED
        else:
            self.matrix, self.range = matrix_of(first), range_of(first)
            context.colorspace = first.colorspace
            context.color_range = FULL if self.range == FULL else first.color_range

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
        self._keep_names(copied, stream)
        return copied

    def _keep_names(self, copied: Any, stream: Any) -> None:
        # FFmpeg reads the title that it writes into MP4 and MOV as `name`.
        names = {"name": "title", "language": "language", "title": "title", "handler_name": "handler_name"}
        kept = {names[key]: value for key, value in stream.metadata.items() if key in names}
        if (language := kept.get("language", "und")) != "und":
            self.languages[copied.index] = language
            if self.copy.format.name == "mov":
                kept["language"] = _IN_QUICKTIME.get(language, language)
        copied.metadata.update(kept)

    def write(self, chunk: Chunk, pixels: Tensor) -> None:
        """Write a chunk with ``pixels`` in place of its frames."""
        import av

        for frame, stamp, image in zip(chunk.frames, chunk.stamps, pixels, strict=True):
            image = self.upright(image).permute(1, 2, 0).contiguous().cpu()
            form = "rgb24" if image.dtype == torch.uint8 else "gbrpf32le"
            made = av.VideoFrame.from_ndarray(image.numpy(), form).reformat(
                width=self.stream.width,
                height=self.stream.height,
                format=self.stream.pix_fmt,
                src_colorspace=self.matrix,
                dst_colorspace=self.matrix,
                src_color_range=FULL,
                dst_color_range=self.range,
                interpolation=exact_scaling(),
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
            # A track lasts from the decoding of the first frame to that of the last, and as long as the last is shown,
            # but no longer than its frames are shown. The index of a cut file tells of frames that are not there.
            length = (not self.reader.missing() and self.video.duration) or self.length
            rest = length - (self.held.dts - self.start)
            if self.held.pts == self.stamps[-1]:
                rest = max(rest, length - (self.held.pts - self.stamps[0]))
            self.held.duration = rest if rest > 0 else self.held.duration
        self.copy.mux(self.held)

    def changes(self, target: Path) -> list[str]:
        """Read the written file, and return a line on each stream that moved in time or lost its language."""
        found: dict[int, list[Fraction]] = {index: [] for index in self.wanted}
        with opened(target) as film:
            kinds = [stream.type for stream in film.streams]
            spoken = {stream.index for stream in film.streams if "language" in stream.metadata}
            for packet in film.demux():
                stamp = packet.dts if packet.pts is None else packet.pts
                if packet.size and stamp is not None:
                    found[packet.stream.index].append(stamp * packet.time_base)
        lines = []
        for index, wanted in self.wanted.items():
            if not wanted:
                continue
            if index == self.stream.index:
                name = "frames"
                pairs = list(zip(sorted(found[index]), sorted(wanted), strict=False))
            else:
                # Packets may be cut otherwise; then the first ones compare.
                name = f"stream {index} ({kinds[index]})"
                pairs = list(zip(sorted(found[index]), sorted(wanted), strict=False))
                later = pairs[1:] if len(found[index]) == len(wanted) else []
                # A container that counts in milliseconds rounds all of them.
                pairs = pairs[:1] + [pair for pair in later if abs(pair[0] - pair[1]) > Fraction(1, 500)]
            shifts = [new - old for new, old in pairs]
            most = max(shifts, key=abs, default=Fraction(0))
            if abs(most) > _ROUNDING:
                lines.append(f"{name} moved by up to {1000 * float(most):+.4g} ms")
        lasts = self.length - (self.stamps[-1] - self.stamps[0])
        if self.avi and lasts > 1:
            tick = 1000 * float(self.base)
            lines.append(f"the last frame is shown for {tick:.4g} ms, not for {tick * lasts:.4g} ms")
        for index in sorted(self.languages.keys() - spoken):
            lines.append(
                f"the language ({self.languages[index]}) of stream {index} ({kinds[index]}) is left out"
            )
        return lines


def _grid(source: Path, video: Any) -> Fraction:
    """Find the frame rate whose grid is nearest to the time stamps of a video; of several, the first.

    The average rate of a clip of 30, then 24 frames a second fits neither part; FFmpeg's guess, or a common multiple,
    fits both.
    """
    with opened(source) as film:
        stamps = sorted(
            (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            for packet in Reader(film, film.streams[video.index], 1, Report()).packets()
            if packet.stream.index == video.index and not (packet.pts is None and packet.dts is None)
            if packet.size
        )
    rates = [
        Fraction(video.base_rate or rate_of(video)),
        rate_of(video),
        *(Fraction(n) for n in (60, 120, 240)),
    ]
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


def _display_matrix(frame: Any) -> list[int] | None:
    """Return FFmpeg's display matrix, which turns or mirrors a picture; None for an upright picture."""
    try:
        data = bytes(frame.side_data["DISPLAYMATRIX"])
    except KeyError:
        return None
    numbers = [int(number) for number in np.frombuffer(data, np.int32)]
    return None if tuple(numbers) == _UPRIGHT else numbers


def _made_upright(matrix: Sequence[int]) -> tuple[bool, Callable[[Tensor], Tensor]]:
    """Return what a display matrix does to an image (3,H,W), to quarter turns, and whether it swaps the sides.

    The matrix takes the place (x, y) of a pixel to (ax + cy, bx + dy).
    """
    a, b, _, c, d = matrix[:5]
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    flipped = [side for side, sign in ((2, c if swapped else a), (1, b if swapped else d)) if sign < 0]
    return swapped, lambda image: (image.transpose(1, 2) if swapped else image).flip(flipped)


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


def _tells_chapters(film: Any, stream: Any) -> bool:
    """Return whether a stream is the text that QuickTime writes for the chapters, which FFmpeg tells of the file."""
    name = getattr(stream.codec_context, "name", None) or getattr(stream, "name", None)
    return (
        stream.type == "data" and name == "bin_data" and "mp4" in film.format.name and bool(film.chapters())
    )


def options_of(container: str, video: Any) -> dict[str, str]:
    """Return what FFmpeg is to do otherwise than it does unasked."""
    if container in _WITH_EDITS:  # tell when a track begins by the clock of the frames, not in milliseconds
        ticks = video.time_base.denominator
        return {"movie_timescale": str(ticks * -(-1000 // ticks))}
    if container == "avi":  # not move all frames on where sound begins before them
        return {"avoid_negative_ts": "disabled"}
    return {}
