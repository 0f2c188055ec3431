"""Clips for tests: made sample by sample, and read as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glare.batch import enhance_files

av = pytest.importorskip("av")

LIMITED, FULL = 1, 2  # ranges, as FFmpeg numbers them
CONTAINERS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


#: Luma weights of red and blue, by the number of the matrix in ITU-T H.273.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


def film(
    path: Path,
    *,
    stamps: Sequence[int] = tuple(range(0, 24000, 3000)),
    base: Fraction = Fraction(1, 90000),
    rate: Fraction | int = 30,
    size: tuple[int, int] = (48, 32),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    planes: Sequence[int] = (90, 120, 140),
    tags: dict[str, int] | None = None,
    aspect: Fraction | None = None,
    rotation: int = 0,
    sound: Sequence[tuple[str, float, str]] = (),
    subtitles: Sequence[str] = (),
    form: str | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A clip of one colour, whose samples are ``planes``, as PyAV writes it; a sound is (codec, start, language)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as file:
        video = file.add_stream(
            codec, rate=rate, options={**({"crf": "4"} if codec == "libx264" else {}), **(options or {})}
        )
        video.width, video.height, video.pix_fmt = *size, pix_fmt
        video.time_base = video.codec_context.time_base = base
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        if aspect:
            video.codec_context.sample_aspect_ratio = aspect
        if rotation:
            video.set_display_rotation(rotation)
        file.metadata.update(metadata or {})
        tones = [tone(file, *one) for one in sound]
        texts = [file.add_mux_stream(name, time_base=Fraction(1, 1000)) for name in subtitles]
        for text in texts:
            text.metadata["language"] = "deu"
        for stamp in stamps:
            frame = filled(size, pix_fmt, planes)
            frame.pts, frame.time_base = stamp, base
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for stream, packets in tones:
            for packet in packets:
                packet.stream = stream
                file.mux(packet)
        for text in texts:
            packet = av.Packet(b"Guten Abend")
            packet.pts = packet.dts = 50
            packet.duration, packet.time_base, packet.stream = 100, Fraction(1, 1000), text
            file.mux(packet)
    return path


def filled(size: tuple[int, int], pix_fmt: str, values: Sequence[int]) -> Any:
    """A frame of one colour, its samples written one by one."""
    frame = av.VideoFrame(*size, pix_fmt)
    deep = any(component.bits > 8 for component in frame.format.components)
    packed = len(frame.planes) == 1 and len(values) > 1
    for plane, value in zip(frame.planes, [values] if packed else values, strict=False):
        if isinstance(value, int):
            data = np.full(plane.buffer_size // (2 if deep else 1), value, np.uint16 if deep else np.uint8)
        else:  # packed: red, green, blue
            data = np.zeros((plane.height, plane.line_size), np.uint8)
            step = 4 if "0" in pix_fmt or "a" in pix_fmt else 3
            order = (2, 1, 0) if pix_fmt.startswith("bgr") else (1, 2, 3) if pix_fmt == "argb" else (0, 1, 2)
            for channel, place in zip(value, order, strict=False):
                data[:, place::step] = channel
            if pix_fmt == "argb":
                data[:, ::4] = 128
        plane.update(data.tobytes())
    return frame


def tone(file: Any, codec: str, start: float, language: str, seconds: float = 0.25) -> tuple[Any, list[Any]]:
    """A stream of sound, and its packets, encoded."""
    stream = file.add_stream(codec, rate=8000 if "amr" in codec else 48000, layout="mono")
    stream.metadata["language"], stream.metadata["title"], stream.bit_rate = language, f"In {language}", 64000
    rate = stream.codec_context.sample_rate
    waves = av.AudioResampler(stream.codec_context.format, "mono", rate).resample(_wave(rate, seconds))
    fifo = av.AudioFifo()
    for wave in waves:
        fifo.write(wave)
    packets = []
    for wave in fifo.read_many(stream.codec_context.frame_size or 1024):
        packets += stream.encode(wave)
    packets += stream.encode(None)
    for packet in packets:
        packet.pts += round(start / packet.time_base)
        packet.dts += round(start / packet.time_base)
    return stream, packets


def _wave(rate: int, seconds: float) -> Any:
    sine = (8000 * np.sin(np.arange(round(rate * seconds)) / 10)).astype(np.int16)[None]
    wave = av.AudioFrame.from_ndarray(sine, format="s16", layout="mono")
    wave.sample_rate, wave.pts, wave.time_base = rate, 0, Fraction(1, rate)
    return wave


def through(source: Path, target: Path, capsys: pytest.CaptureFixture[str], batch: int = 3) -> list[str]:
    """The lines that are told of a video on its way through an enhancer that changes nothing."""
    assert enhance_files(lambda pixels: pixels, [(source, target)], batch=batch) == []
    return [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines() if f"{source}: " in line]


def stamps_of(path: Path, kind: str = "video", number: int = 0) -> list[Fraction]:
    """When the frames of a stream are shown, in seconds."""
    with av.open(str(path)) as file:
        stream = getattr(file.streams, kind)[number]
        return sorted(
            (packet.dts if packet.pts is None else packet.pts) * packet.time_base
            for packet in file.demux(stream)
            if packet.size
        )


def first_frame(path: Path) -> Any:
    with av.open(str(path)) as file:
        return next(file.decode(video=0))


def colour(path: Path) -> np.ndarray[Any, Any]:
    """The mean colour of the first frame, in levels of 8 bits, by the formulas of ITU-R BT.601, 709 and 2020."""
    frame = first_frame(path)
    bits = frame.format.components[0].bits
    kind = np.uint16 if bits > 8 else np.uint8
    values = []
    for plane in frame.planes:
        samples = np.frombuffer(plane, kind).reshape(plane.height, -1)[:, : plane.width]
        assert np.ptp(samples.astype(int)) <= 2 * 2 ** (bits - 8)  # it is of one colour, to its edges
        values.append(samples.mean() / 2 ** (bits - 8))
    return as_rgb(values, matrix_of(frame), full=frame.color_range == FULL)


def matrix_of(frame: Any) -> int:
    return int(frame.colorspace) if frame.colorspace in WEIGHTS else (1 if frame.height >= 720 else 6)


def as_rgb(values: Sequence[float], matrix: int, *, full: bool) -> np.ndarray[Any, Any]:
    red, blue = WEIGHTS[matrix]
    y, cb, cr = values
    if full:
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    else:
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return 255 * np.array([r, (y - red * r - blue * b) / (1 - red - blue), b])


def packets_of(path: Path, number: int = 0) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=number) if packet.size]
