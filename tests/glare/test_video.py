from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
from torch import Tensor

from glare import GLARE, GLAREEnhance
from glare import weights as glare_weights
from glare.batch import enhance_files, find_jobs
from glare.cli import main
from glare.steady import Steady

av = pytest.importorskip("av")

LIMITED, FULL = 1, 2
CONTAINERS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
#: Luma weights of red and blue, by the number of the matrix in ITU-T H.273.
WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}


@pytest.fixture
def weights(model: GLARE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glare_weights.save(model, tmp_path_factory.mktemp("weights")).parent


def relative(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


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


#: In units of 1/90000 s.
TIMES = {
    "30, then 24 fps": [*range(0, 30000, 3000), *range(30000, 60000, 3750)],
    "a pause": [0, 3000, 6000, 186000, 189000],
    "a burst": [0, 3000, 3001, 3002, 6000, 9000],
    "jitter": [0, 3017, 5990, 9003, 12011, 14990],
    "a late start": [126000, 129000, 132000, 135000],
    "an hour": [0, 3000, 3600 * 90000, 3600 * 90000 + 3000],
}


class TestTime:
    @pytest.mark.parametrize("name", TIMES)
    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".m4v"])
    def test_stamps_are_exact(
        self, name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / f"in{suffix}", stamps=TIMES[name])
        assert through(source, tmp_path / f"out{suffix}", capsys) == []
        assert stamps_of(source) == [Fraction(stamp, 90000) for stamp in TIMES[name]]
        assert stamps_of(tmp_path / f"out{suffix}") == stamps_of(source)
        with av.open(str(source)) as before, av.open(str(tmp_path / f"out{suffix}")) as after:
            assert before.streams.video[0].duration == after.streams.video[0].duration
            assert before.duration == after.duration
            assert before.start_time == after.start_time

    @pytest.mark.parametrize("suffix", [".mkv", ".webm"])
    def test_of_milliseconds_too(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        base, stamps = Fraction(1, 1000), [40, 73, 107, 140, 141, 800]
        codec = "libvpx-vp9" if suffix == ".webm" else "libx264"
        source = film(tmp_path / f"in{suffix}", stamps=stamps, base=base, codec=codec)
        assert through(source, tmp_path / f"out{suffix}", capsys) == []
        assert stamps_of(tmp_path / f"out{suffix}") == [stamp * base for stamp in stamps]

    def test_what_moved_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / "in.mp4", stamps=TIMES["a burst"])
        assert through(source, tmp_path / "out.mkv", capsys) == ["frames moved by up to -0.3556 ms"]

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
    def test_an_avi_has_the_rate_of_its_source(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / f"in{suffix}", stamps=range(0, 90000, 3000))
        lines = through(source, tmp_path / "out.avi", capsys)
        with av.open(str(tmp_path / "out.avi")) as file:
            assert file.streams.video[0].average_rate == 30
        assert stamps_of(tmp_path / "out.avi") == [Fraction(number, 30) for number in range(30)]
        assert lines == ([] if suffix != ".mkv" else ["frames moved by up to +0.3333 ms"])

    @pytest.mark.parametrize("suffix", [".mp4", ".mov"])
    def test_a_start_between_two_milliseconds(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As of a transport stream; MP4 tells the start of a track by a clock of its own."""
        source = film(tmp_path / "in.ts", stamps=range(6000, 30000, 3000), sound=[("aac", 0.1, "eng")])
        assert through(source, tmp_path / f"out{suffix}", capsys) == []
        for kind in ("video", "audio"):
            shifts = zip(stamps_of(tmp_path / f"out{suffix}", kind), stamps_of(source, kind), strict=True)
            assert max(abs(new - old) for new, old in shifts) <= (
                0 if kind == "video" else Fraction(1, 48000)
            )

    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".mp4"])
    def test_what_is_never_played_moves_nothing(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The lead of AAC, before the first frame: an MP4 hides it by its edit list, and others have none."""
        source = film(tmp_path / "in.mp4", stamps=range(0, 90000, 9000), rate=10, sound=[("aac", 0.0, "eng")])
        assert stamps_of(source, "audio")[0] < 0
        assert through(source, tmp_path / f"out{suffix}", capsys) == []
        assert stamps_of(tmp_path / f"out{suffix}") == [Fraction(number, 10) for number in range(10)]
        hidden = suffix in (".avi", ".mkv")
        assert packets_of(tmp_path / f"out{suffix}") == packets_of(source)[hidden:]
        wanted = Fraction(0) if hidden else stamps_of(source, "audio")[0]
        assert stamps_of(tmp_path / f"out{suffix}", "audio")[0] == wanted

    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".mp4"])
    def test_what_was_cut_off_on_a_telephone_stays_so(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The file still holds it, and an edit list hides it."""
        source = film(tmp_path / "in.mp4", stamps=range(-9000, 9000, 3000), sound=[("aac", -0.1, "eng")])
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        after = stamps_of(tmp_path / f"out{suffix}")
        if suffix == ".mkv":  # which moves all, where a packet of sound lies across the cut
            assert [line[:18] for line in lines] == ["frames moved by up", "stream 1 (audio) m"]
            assert 0 < after[0] < Fraction(1024, 48000)
        else:
            assert after == [0, Fraction(1, 30), Fraction(2, 30)]
            assert len(lines) == (suffix == ".avi")
        if suffix in (".avi", ".mkv"):
            assert stamps_of(tmp_path / f"out{suffix}", "audio")[0] == 0
        else:
            with av.open(str(source)) as old, av.open(str(tmp_path / f"out{suffix}")) as new:
                for one, other in zip(old.streams, new.streams, strict=True):
                    assert abs((one.duration - other.duration) * one.time_base) < Fraction(1, 1000)

    @pytest.mark.parametrize("step", [3017, 2999, 3001])
    def test_an_avi_of_a_rate_of_many_digits(
        self, step: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """MPEG-4 Part 2 counts at most 65535 ticks a second, and the mean rate of a telephone has 90000."""
        source = film(tmp_path / "in.mp4", stamps=range(0, 20 * step, step), rate=Fraction(90000, step))
        through(source, tmp_path / "out.avi", capsys)
        shifts = zip(stamps_of(tmp_path / "out.avi"), stamps_of(source), strict=True)
        assert max(abs(new - old) for new, old in shifts) <= Fraction(1, 1000)

    @pytest.mark.parametrize("frames_between", ["0", "3"])  # that are decoded out of order
    @pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
    def test_the_last_frame_is_shown_as_long(
        self, frames_between: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stamps = TIMES["30, then 24 fps"]
        source = film(tmp_path / f"clip{suffix}", stamps=stamps, options={"bf": frames_between})
        assert through(source, tmp_path / "day.mp4", capsys) == []
        with av.open(str(tmp_path / "day.mp4")) as day, av.open(str(source)) as clip:
            (track,), (video,) = day.streams.video, clip.streams.video
            # Matroska tells how long the last frame lasts, MP4 how long all of them.
            ends = max((packet.pts, packet.duration) for packet in clip.demux(video) if packet.size)
            wanted = (video.duration or sum(ends)) * video.time_base
            assert track.duration * track.time_base == wanted

    def test_an_avi_of_two_rates(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / "in.mp4", stamps=TIMES["30, then 24 fps"])
        told = through(source, tmp_path / "out.avi", capsys)
        assert told == ["the last frame is shown for 8.333 ms, not for 33.33 ms"]  # a tick of 120 a second
        assert stamps_of(tmp_path / "out.avi") == stamps_of(source)

    @pytest.mark.parametrize("suffix", CONTAINERS)
    def test_late_sound(self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        webm = suffix == ".webm"
        start = ".webm" if webm else ".mov"
        source = film(
            tmp_path / f"in{start}",
            stamps=range(0, 900, 33) if webm else range(0, 90000, 3000),
            base=Fraction(1, 1000) if webm else Fraction(1, 90000),
            codec="libvpx-vp9" if webm else "libx264",
            sound=[("libopus" if webm else "aac", 0.5, "eng")],
        )
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        before, after = stamps_of(source, "audio"), stamps_of(tmp_path / f"out{suffix}", "audio")
        assert before[0] > 0.45
        if suffix == ".avi":
            assert lines[0].startswith("stream 1 (audio) moved by up to -")
        else:
            assert abs(after[0] - before[0]) <= Fraction(1, 1000)
            assert abs(after[-1] - before[-1]) <= Fraction(1, 1000)


class TestDashCamera:
    """Ten seconds of a panned photograph, darkened, 30, then 24 frames a second, with sound."""

    STAMPS = (*range(0, 450000, 3000), *range(450000, 900000, 3750))
    BASE = Fraction(1, 90000)

    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        photograph = np.asarray(skimage.data.chelsea())[20:276].astype(float)
        path: Path = tmp_path_factory.mktemp("camera") / "night.mp4"
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=27, options={"preset": "ultrafast"})
            video.width, video.height, video.time_base = 96, 64, self.BASE
            video.codec_context.time_base = self.BASE
            video.codec_context.sample_aspect_ratio = Fraction(4, 3)
            sound, packets = tone(file, "aac", 0.0, "eng", seconds=10)
            for number, stamp in enumerate(self.STAMPS):
                left = number * 350 // len(self.STAMPS)
                dark = (255 * (photograph[::4, left : left + 96] / 255) ** 2.2 / 8).astype(np.uint8)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(dark), "rgb24")
                frame.pts, frame.time_base = stamp, self.BASE
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
            for packet in packets:
                packet.stream = sound
                file.mux(packet)
        return path

    def is_kept(self, source: Path, target: Path) -> None:
        """Every stamp, the sound and the aspect."""
        assert stamps_of(target) == stamps_of(source) == [stamp * self.BASE for stamp in self.STAMPS]
        assert stamps_of(target, "audio") == stamps_of(source, "audio")
        assert packets_of(target) == packets_of(source)
        with av.open(str(source)) as before, av.open(str(target)) as after:
            assert after.streams.video[0].duration == before.streams.video[0].duration
            assert after.streams.audio[0].duration == before.streams.audio[0].duration
            assert after.duration == before.duration
            assert after.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
            assert (after.streams.video[0].width, after.streams.video[0].height) == (96, 64)
            assert sum(1 for _ in after.decode(video=0)) == len(self.STAMPS)

    def test_by_the_command(
        self, source: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "day.mp4"
        options = ["--weights", str(weights), "--no-steady", "--batch", "30", "--scale", "0.5"]
        assert main(["enhance", str(source), str(target), *options]) == 0
        assert str(source) not in capsys.readouterr().err  # nothing moved, nothing is left out
        self.is_kept(source, target)

    def test_each_frame_is_that_of_its_time(
        self, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "day.mp4"
        assert enhance_files(lambda pixels: pixels * 4, [(source, target)], batch=4) == []
        assert str(source) not in capsys.readouterr().err
        self.is_kept(source, target)
        with av.open(str(source)) as before, av.open(str(target)) as after:
            for old, new in zip(before.decode(video=0), after.decode(video=0), strict=True):
                expected = 4 * old.to_ndarray(format="rgb24").mean((0, 1))
                assert np.abs(new.to_ndarray(format="rgb24").mean((0, 1)) - expected).max() < 4 * 1.5
        if shutil.which("ffprobe") is None:
            pytest.skip("no ffprobe, which would be the second opinion")
        told = []
        for path in (source, target):
            command = ["ffprobe", "-v", "error", "-of", "csv", "-show_entries"]
            command += [
                "packet=stream_index,pts:stream=start_time,duration,sample_aspect_ratio",
                str(path),
            ]
            told.append(
                sorted(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
            )
        assert told[0] == told[1]


class TestPicture:
    @pytest.mark.parametrize("suffix", CONTAINERS)
    def test_aspect_and_rotation(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mov", aspect=Fraction(4, 3), rotation=90)
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        with av.open(str(tmp_path / f"out{suffix}")) as file:
            video = file.streams.video[0]
            frame = next(file.decode(video=0))
            if suffix == ".avi":  # which knows no rotation: the picture is turned
                assert (frame.width, frame.height) == (32, 48)
                assert (video.sample_aspect_ratio, frame.rotation) == (Fraction(3, 4), 0)
            elif suffix == ".webm":
                assert (frame.width, frame.height, frame.rotation) == (64, 32, 90)
                assert "its pixels of 4/3 are made square, at 64x32" in lines
            else:
                assert (frame.width, frame.height) == (48, 32)
                assert (video.sample_aspect_ratio, frame.rotation) == (Fraction(4, 3), 90)

    @pytest.mark.parametrize("degrees", [90, 180, -90])
    def test_an_avi_is_turned_as_a_player_would(
        self, degrees: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "in.mp4"
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=30, options={"crf": "4"})
            video.width, video.height = 48, 32
            video.set_display_rotation(degrees)  # counter-clockwise
            pixels = np.zeros((32, 48, 3), np.uint8)
            pixels[:16, :24] = 200  # light at the upper left
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            file.mux(video.encode(None))
        through(path, tmp_path / "out.avi", capsys)
        result = first_frame(tmp_path / "out.avi").to_ndarray(format="gray")
        expected = np.rot90(pixels[..., 0], degrees // 90)
        assert np.abs(result.astype(int) - expected).mean() < 20
        if shutil.which("ffmpeg") is None:
            pytest.skip("no ffmpeg, whose own turning would be the second opinion")
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
        turned = subprocess.run(command, capture_output=True, check=True).stdout
        other = np.frombuffer(turned, np.uint8).reshape(result.shape)
        assert np.abs(result.astype(int) - other).mean() < 20

    @pytest.mark.parametrize("suffix", CONTAINERS)
    @pytest.mark.parametrize("size", [(49, 31), (49, 32), (48, 31)])
    def test_odd_sizes(
        self, suffix: str, size: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mkv", size=size, pix_fmt="yuv444p", planes=(60, 120, 135))
        through(source, tmp_path / f"out{suffix}", capsys)
        frame = first_frame(tmp_path / f"out{suffix}")
        assert (frame.width, frame.height) == size
        assert np.abs(colour(tmp_path / f"out{suffix}") - colour(source)).max() <= 2

    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".mp4", ".webm"])
    @pytest.mark.parametrize("size", [(48, 32), (1280, 720)])
    @pytest.mark.parametrize("matrix", [1, 2, 6])
    @pytest.mark.parametrize("limits", [0, LIMITED, FULL])
    def test_colours(
        self,
        suffix: str,
        size: tuple[int, int],
        matrix: int,
        limits: int,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        tags = {"colorspace": matrix, "color_range": limits}
        # Colour has half as many levels as grey where blue and red are made of it.
        for planes, least in (((77, 128, 128), 1.0), ((77, 105, 150), 2.5))[: 1 if size[0] > 48 else 2]:
            source = film(tmp_path / "in.mp4", stamps=[0], size=size, planes=planes, tags=tags)
            through(source, tmp_path / f"out{suffix}", capsys)
            assert np.abs(colour(tmp_path / f"out{suffix}") - colour(source)).max() <= least
            before, after = first_frame(source), first_frame(tmp_path / f"out{suffix}")
            if suffix != ".avi":  # which has no tags
                assert matrix_of(before) == matrix_of(after)
                assert before.colorspace == after.colorspace
                assert (before.color_range == FULL) == (after.color_range == FULL)

    @pytest.mark.parametrize("suffix", CONTAINERS)
    @pytest.mark.parametrize("size", [(48, 32), (49, 31)])
    @pytest.mark.parametrize(
        ("codec", "pix_fmt", "start"),
        [
            ("libx264rgb", "bgr24", ".mkv"),
            ("ffv1", "bgr0", ".mkv"),
            ("qtrle", "rgb24", ".mov"),
            ("qtrle", "argb", ".mov"),
        ],
    )
    def test_screen_recordings(
        self,
        suffix: str,
        size: tuple[int, int],
        codec: str,
        pix_fmt: str,
        start: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        source = film(tmp_path / f"in{start}", codec=codec, pix_fmt=pix_fmt, planes=(40, 90, 70), size=size)
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        assert np.abs(colour(tmp_path / f"out{suffix}") - (40, 90, 70)).max() <= 2
        assert first_frame(tmp_path / f"out{suffix}").colorspace == (
            2 if suffix == ".avi" else 1
        )  # no more GBR
        assert ("transparency is left out" in lines) == (pix_fmt == "argb")

    @pytest.mark.parametrize("suffix", [".m4v", ".mkv", ".mov", ".mp4"])
    def test_ten_bits_stay(self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(
            tmp_path / "in.mkv", pix_fmt="yuv420p10le", planes=(301, 513, 511), tags={"colorspace": 1}
        )
        seen = []

        def identity(pixels: Tensor) -> Tensor:
            seen.append(pixels.dtype)
            return pixels

        assert enhance_files(identity, [(source, tmp_path / f"out{suffix}")]) == []
        assert set(seen) == {torch.float32}
        frame = first_frame(tmp_path / f"out{suffix}")
        assert frame.format.components[0].bits == 10
        luma = np.frombuffer(frame.planes[0], np.uint16).reshape(32, -1)[:, :48]
        assert np.abs(luma.astype(int) - 301).max() <= 1  # of 1024 levels

    @pytest.mark.parametrize("name", ["avi", "webm"])
    def test_ten_bits_that_a_container_cannot_hold(self, name: str, tmp_path: Path) -> None:
        source = film(tmp_path / "in.mkv", pix_fmt="yuv420p10le", planes=(301, 513, 511))
        (line,) = enhance_files(lambda pixels: pixels, [(source, tmp_path / f"out.{name}")])
        assert f"more than 8 bits cannot be held by {name}" in line

    def test_twelve_bits_are_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        # By FFV1: the 12 bits of x265 in PyAV 18.1's wheel write beyond their memory.
        source = film(tmp_path / "in.mkv", codec="ffv1", pix_fmt="yuv420p12le", planes=(1200, 2048, 2048))
        lines = through(source, tmp_path / "out.mkv", capsys)
        assert lines == ["frames of 12 bits are stored with 10"]
        assert np.abs(colour(tmp_path / "out.mkv") - colour(source)).max() <= 1

    @pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
    def test_hdr_is_refused(self, transfer: int, name: str, tmp_path: Path) -> None:
        tags = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer}
        source = film(tmp_path / "in.mp4", pix_fmt="yuv420p10le", planes=(301, 513, 511), tags=tags)
        (line,) = enhance_files(lambda pixels: pixels, [(source, tmp_path / "out.mp4")])
        assert line.startswith(f"{source}: it is HDR video ({name})")
        assert list(tmp_path.iterdir()) == [source]

    def test_a_matrix_that_nobody_knows_is_refused(self, tmp_path: Path) -> None:
        source = film(tmp_path / "in.mp4", tags={"colorspace": 8})  # YCgCo
        (line,) = enhance_files(lambda pixels: pixels, [(source, tmp_path / "out.mp4")])
        assert "matrix 8 of ITU-T H.273" in line

    def test_grey_video(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / "in.mp4", pix_fmt="gray", planes=[77])
        through(source, tmp_path / "out.mp4", capsys)
        expected = as_rgb((77, 128, 128), 6, full=first_frame(source).color_range == FULL)
        assert np.abs(colour(tmp_path / "out.mp4") - expected).max() <= 1

    @pytest.mark.parametrize("suffix", CONTAINERS)
    def test_detail_stays(self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """As much of it in every container: MPEG-4 Part 2 at its default rate has 29 dB."""
        rows, columns = np.mgrid[:96, :160]
        noise = np.random.default_rng(0).normal(0, 4, (96, 160))
        luma = (60 + 40 * np.sin(rows / 3) * np.sin(columns / 5) + noise).clip(16, 235).astype(np.uint8)
        with av.open(str(tmp_path / "in.mkv"), "w") as file:
            video = file.add_stream("libx264", rate=30, options={"crf": "4"})
            video.width, video.height = 160, 96
            for _ in range(6):
                frame = av.VideoFrame.from_ndarray(
                    np.concatenate((luma, np.full((48, 160), 128, np.uint8))), "yuv420p"
                )
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        through(tmp_path / "in.mkv", tmp_path / f"out{suffix}", capsys)
        before, after = (
            first_frame(path).to_ndarray(format="gray").astype(float)
            for path in (tmp_path / "in.mkv", tmp_path / f"out{suffix}")
        )
        assert 10 * np.log10(255**2 / np.square(before - after).mean()) > 38


class TestTracks:
    def test_sounds_languages_and_subtitles(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(
            tmp_path / "in.mkv",
            stamps=range(0, 600, 33),
            base=Fraction(1, 1000),
            sound=[("aac", 0.0, "deu"), ("aac", 0.0, "fra")],
            subtitles=["subrip"],
            metadata={"title": "A night"},
        )
        assert through(source, tmp_path / "out.mkv", capsys) == []
        with av.open(str(source)) as before, av.open(str(tmp_path / "out.mkv")) as after:
            assert [stream.type for stream in after.streams] == ["video", "audio", "audio", "subtitle"]
            for old, new in zip(before.streams, after.streams, strict=True):
                assert old.metadata.get("language") == new.metadata.get("language")
                assert old.disposition == new.disposition
            assert after.streams[3].metadata["language"] == "deu"
            assert after.metadata["title"] == "A night"
            old, new = ([bytes(p) for p in file.demux(subtitles=0)] for file in (before, after))
            assert old == new
            assert b"Guten Abend" in new
        for number in (0, 1):
            assert packets_of(source, number) == packets_of(tmp_path / "out.mkv", number)
        # MP4 has subtitles of its own kind alone.
        (left_out,) = through(source, tmp_path / "out.mp4", capsys)
        assert left_out == "left out: stream 3 (subtitle, srt)"

    @pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".mov"])
    def test_titles_of_sounds(self, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / f"in{suffix}", sound=[("aac", 0.0, "deu")])
        for target in (tmp_path / f"out{suffix}", tmp_path / "other.mkv"):
            through(source, target, capsys)
            with av.open(str(target)) as after:
                about = after.streams.audio[0].metadata
                assert about.get("title", about.get("name")) == "In deu"  # as FFmpeg reads MP4's and MOV's

    def test_subtitles_of_an_mp4(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / "in.mp4", subtitles=["mov_text"])
        assert through(source, tmp_path / "out.mp4", capsys) == []
        with av.open(str(source)) as before, av.open(str(tmp_path / "out.mp4")) as after:
            assert after.streams.subtitles[0].metadata["language"] == "deu"
            for file in (before, after):  # what is between two texts is an empty one
                (text,) = (packet for packet in file.demux(subtitles=0) if packet.size > 2)
                assert (bytes(text), text.pts * text.time_base) == (b"Guten Abend", Fraction(1, 20))

    def test_another_video_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """As of a camera that looks ahead and back."""
        source = tmp_path / "in.mp4"
        with av.open(str(source), "w") as file:
            streams = [file.add_stream("libx264", rate=30, width=48, height=32) for _ in range(2)]
            for stream in streams:
                file.mux(stream.encode(filled((48, 32), "yuv420p", (90, 120, 140))))
                file.mux(stream.encode(None))
        assert through(source, tmp_path / "out.mp4", capsys) == ["left out: stream 1 (video, h264)"]

    def test_chapters(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = tmp_path / "in.mkv"
        with av.open(str(source), "w") as file:
            file.set_chapters(
                [
                    {
                        "id": 1,
                        "start": 0,
                        "end": 100,
                        "time_base": Fraction(1, 1000),
                        "metadata": {"title": "Dusk"},
                    }
                ]
            )
            video = file.add_stream("libx264", rate=30, width=48, height=32)
            file.mux(video.encode(filled((48, 32), "yuv420p", (90, 120, 140))))
            file.mux(video.encode(None))
        through(source, tmp_path / "out.mkv", capsys)
        with av.open(str(tmp_path / "out.mkv")) as file:
            (chapter,) = file.chapters()
        assert chapter["metadata"]["title"] == "Dusk"
        assert (chapter["start"] * chapter["time_base"], chapter["end"] * chapter["time_base"]) == (
            0,
            Fraction(1, 10),
        )

    def test_default_flags(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = tmp_path / "in.mkv"
        with av.open(str(source), "w") as file:
            video = file.add_stream("libx264", rate=30)
            video.width, video.height = 48, 32
            tones = [tone(file, "aac", 0.0, language) for language in ("deu", "fra")]
            video.disposition = tones[1][0].disposition = 1  # the second is the default
            for number in range(8):
                frame = filled((48, 32), "yuv420p", (90, 120, 140))
                frame.pts, frame.time_base = number, Fraction(1, 30)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
            for stream, packets in tones:
                for packet in packets:
                    packet.stream = stream
                    file.mux(packet)
        for suffix in (".mkv", ".mp4", ".mov"):
            through(source, tmp_path / f"out{suffix}", capsys)
            with av.open(str(tmp_path / f"out{suffix}")) as file:
                assert [int(stream.disposition) & 1 for stream in file.streams] == [1, 0, 1]

    def test_sound_that_a_container_cannot_hold(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(
            tmp_path / "in.wmv",
            codec="wmv2",
            base=Fraction(1, 30),
            stamps=range(9),
            sound=[("wmav2", 0.0, "eng")],
        )
        (line,) = enhance_files(lambda pixels: pixels, [(source, tmp_path / "out.mp4")])
        assert line == f"{source}: its sound (wmav2) cannot be held by mp4, only by .avi"
        assert not (tmp_path / "out.mp4").exists()
        through(source, tmp_path / "out.avi", capsys)
        assert packets_of(source) == packets_of(tmp_path / "out.avi")

    @pytest.mark.parametrize(
        ("codec", "start", "target", "others"),
        [
            ("flac", ".mkv", "mov", ".avi, .m4v, .mkv, .mp4"),
            ("libopus", ".mkv", "mov", ".m4v, .mkv, .mp4, .webm"),
            ("aac", ".ts", "avi", ".m4v, .mkv, .mov, .mp4"),  # in frames of its own (ADTS)
            ("pcm_s16le", ".mkv", "webm", ".avi, .m4v, .mkv, .mov, .mp4"),
        ],
    )
    def test_some_containers_say_so_late(
        self, codec: str, start: str, target: str, others: str, tmp_path: Path
    ) -> None:
        source = film(
            tmp_path / f"in{start}", base=Fraction(1, 1000), stamps=[0, 33], sound=[(codec, 0, "eng")]
        )
        (line,) = enhance_files(lambda pixels: pixels, [(source, tmp_path / f"out.{target}")])
        kind = codec.removeprefix("lib")
        assert line == f"{source}: its sound ({kind}) cannot be held by {target}, only by {others}"
        assert list(tmp_path.iterdir()) == [source]


def packets_of(path: Path, number: int = 0) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(audio=number) if packet.size]


class TestInputs:
    @pytest.mark.parametrize(
        ("suffix", "codec", "pix_fmt", "sound", "options"),
        [
            (".ts", "libx264", "yuv420p", "aac", {}),
            (".mts", "libx264", "yuv420p", "ac3", {}),
            (".3gp", "libx264", "yuv420p", "libopencore_amrnb", {}),
            (".mpg", "mpeg2video", "yuv420p", "mp2", {}),
            (".wmv", "wmv2", "yuv420p", "wmav2", {}),
            (".flv", "libx264", "yuv420p", "aac", {}),
            (".avi", "mpeg4", "yuv420p", "libmp3lame", {"bf": "2"}),
            (".avi", "mjpeg", "yuvj420p", "pcm_s16le", {}),
            (".webm", "libvpx", "yuv420p", "libopus", {"auto-alt-ref": "1", "lag-in-frames": "5"}),
            (".gif", "gif", "rgb8", None, {}),
            (".ogv", "libvpx", "yuv420p", "flac", {}),
        ],
    )
    def test_whatever_ffmpeg_reads(
        self,
        suffix: str,
        codec: str,
        pix_fmt: str,
        sound: str | None,
        options: dict[str, str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        source = film(
            tmp_path / "night" / f"clip{suffix}",
            codec=codec,
            pix_fmt=pix_fmt,
            base=Fraction(1, 25),
            rate=25,
            stamps=range(10),
            options=options,
            sound=[(sound, 0.0, "eng")] if sound else [],
            form={".mts": "mpegts", ".ogv": "ogg"}.get(suffix),
        )
        jobs = find_jobs([str(source.parent)], tmp_path / "day")
        target = (
            tmp_path
            / "day"
            / {
                ".avi": "clip.avi",
                ".ogv": "clip.mp4",
                ".webm": "clip.webm",
                ".wmv": "clip.avi",
            }.get(suffix, "clip.mov")
        )
        assert jobs == [(source, target)]
        assert find_jobs([str(source)], tmp_path / "day") == jobs
        lines = through(source, target, capsys)
        # Two clocks tick differently; by less than a millisecond.
        assert [line for line in lines if "moved" not in line] == []
        before, after = stamps_of(source), stamps_of(target)
        if target.suffix != ".avi":
            assert max(abs(new - old) for new, old in zip(after, before, strict=True)) == 0
        assert len(after) == len(before) == 10
        with av.open(str(source)) as file, av.open(str(target)) as result:
            for one, other in zip(file.decode(video=0), result.decode(video=0), strict=True):
                assert (one.width, one.height) == (other.width, other.height)
        if sound:
            assert abs(stamps_of(target, "audio")[0] - stamps_of(source, "audio")[0]) <= Fraction(1, 1000)

    @pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "0"}), ("mpeg4", {"bf": "2"})])
    def test_an_avi_begins_with_its_first_frame(
        self, codec: str, options: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """FFmpeg adds the delay of a decoder to its stamps, which the sound does not have."""
        base = Fraction(1, 25)
        source = film(tmp_path / "in.avi", codec=codec, rate=25, base=base, stamps=range(9), options=options)
        assert through(source, tmp_path / "out.mp4", capsys) == []
        assert stamps_of(tmp_path / "out.mp4") == [number * base for number in range(9)]

    def test_a_name_tells_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(tmp_path / "in.dashcam", form="mp4")
        assert find_jobs([str(source)], tmp_path / "out.mp4") == [(source, tmp_path / "out.mp4")]
        through(source, tmp_path / "out.mp4", capsys)
        assert stamps_of(source) == stamps_of(tmp_path / "out.mp4")

    def test_messages_blame_the_right_file(self, tmp_path: Path) -> None:
        notes = tmp_path / "notes.txt"
        notes.write_text("no video")
        with pytest.raises(ValueError, match=r"Expected an image or a video but got .*notes.txt"):
            find_jobs([str(notes)], tmp_path / "day")
        (line,) = enhance_files(lambda pixels: pixels, [(notes, tmp_path / "out.mp4")])
        assert line.startswith(f"{notes}: it cannot be read: ")
        assert "out.mp4" not in line
        source = film(tmp_path / "in.mp4")
        with pytest.raises(ValueError, match=r"Expected OUT to be a folder or to end in one of .avi.*out.ts"):
            find_jobs([str(source)], tmp_path / "out.ts")
        with pytest.raises(ValueError, match=r"Expected OUT to be a folder or to end in one of .avi.*out.ts"):
            find_jobs([str(film(tmp_path / "in.ts"))], tmp_path / "out.ts")
        sound = tmp_path / "in.m4a"
        with av.open(str(sound), "w", format="mp4") as file:
            _, packets = tone(file, "aac", 0.0, "eng")
            file.mux(packets)
        (line,) = enhance_files(lambda pixels: pixels, [(sound, tmp_path / "out.mp4")])
        assert line == f"{sound}: there is no video in it"
        assert not (tmp_path / "out.mp4").exists()


def with_its_index_in_front(path: Path) -> Path:
    """The same MP4, to be read while it is loaded, as cameras write it that send theirs."""
    target = path.with_name("streamed.mp4")
    with av.open(str(target), "w", options={"movflags": "faststart"}) as file, av.open(str(path)) as old:
        stream = file.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    return target


class TestDamage:
    @pytest.fixture
    def whole(self, tmp_path: Path) -> Path:
        """Two seconds of noise, which takes room in the file."""
        path = tmp_path / "whole.mkv"
        generator = np.random.default_rng(0)
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=30, options={"g": "10"})
            video.width, video.height = 48, 32
            for number in range(60):
                pixels = generator.integers(0, 255, (32, 48, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        return path

    @pytest.mark.parametrize("resume", [False, True])
    def test_a_cut_mkv(
        self, whole: Path, resume: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cut = tmp_path / "cut.mkv"
        data = whole.read_bytes()
        cut.write_bytes(data[: len(data) // 3])
        for _ in range(2):
            (line,) = enhance_files(lambda pixels: pixels, [(cut, tmp_path / "out.mkv")], resume=resume)
            frames = len(stamps_of(tmp_path / "out.mkv"))
            assert 10 < frames < 30
            assert "of 2.00 s" in line
            assert f"The rest is in {tmp_path / 'out.mkv'}" in line

    @pytest.mark.parametrize("suffix", [".mp4", ".avi"])
    def test_cut_behind_the_index(
        self, whole: Path, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of an MP4 with its index at the front, and of an AVI, which is read without one, half."""
        path = tmp_path / f"whole{suffix}"
        through(whole, path, capsys)
        if suffix == ".mp4":
            path = with_its_index_in_front(path)
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (line,) = enhance_files(lambda pixels: pixels, [(cut, tmp_path / "out.mp4")])
        assert ("of the 60 frames in its index are there" if suffix == ".mp4" else "of 2.00 s") in line
        assert 20 < len(stamps_of(tmp_path / "out.mp4")) < 40

    def test_a_hole(self, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = bytearray(whole.read_bytes())
        data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
        hole = tmp_path / "hole.mkv"
        hole.write_bytes(data)
        (line,) = enhance_files(lambda pixels: pixels, [(hole, tmp_path / "out.mkv")])
        assert 30 < len(stamps_of(tmp_path / "out.mkv")) < 55
        assert re.search(r"frames about 0\.\d+ s are missing", line)

    def test_a_whole_one_has_no_fault(
        self, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for suffix in CONTAINERS:
            target = tmp_path / f"out{suffix}"
            through(whole, target, capsys)
            assert len(stamps_of(target)) == 60
            through(target, tmp_path / f"again{suffix}", capsys)


class TestVideos:
    @pytest.fixture
    def clip(self, tmp_path: Path) -> Path:
        return write_clip(tmp_path / "night" / "clip.mp4", (48, 32))

    def test_frames_times_and_sound(self, clip: Path, weights: Path, tmp_path: Path) -> None:
        arguments = ["enhance", str(clip.parent), str(tmp_path / "day"), "--weights", str(weights)]
        assert main([*arguments, "--batch", "3", "--no-steady"]) == 0
        assert relative(tmp_path / "day") == ["clip.mp4"]
        before, after = read_clip(clip), read_clip(tmp_path / "day" / "clip.mp4")
        for what in ("times", "rate", "sound", "rotation"):
            assert before[what] == after[what], what
        enhance = GLAREEnhance(weights)
        for low, result in zip(before["frames"], after["frames"], strict=True):
            assert result.shape == low.shape
            # What is left is compression, of the noise that a random network makes.
            assert np.abs(result.astype(int).mean((0, 1)) - enhance(low).mean((0, 1))).max() < 10

    @pytest.mark.parametrize("size", [(48, 32), (49, 31)])
    @pytest.mark.parametrize("colorspace", [1, 6])  # BT.709, BT.601
    def test_colours_are_kept(self, tmp_path: Path, size: tuple[int, int], colorspace: int) -> None:
        clip = write_clip(tmp_path / "in.mp4", size, colorspace=colorspace)
        assert enhance_files(lambda pixels: pixels, [(clip, tmp_path / "out.mp4")], batch=4) == []
        before, after = read_clip(clip), read_clip(tmp_path / "out.mp4")
        assert before["colorspace"] == after["colorspace"]
        for one, other in zip(before["frames"], after["frames"], strict=True):
            assert one.shape == other.shape
            assert np.abs(one.mean((0, 1)) - other.mean((0, 1))).max() < 2.5

    def test_it_is_steadied(self, clip: Path, weights: Path, tmp_path: Path) -> None:
        enhance = GLAREEnhance(weights)
        for name, steady in (("steady.mp4", True), ("alone.mp4", False)):
            assert enhance_files(enhance, [(clip, tmp_path / name)], batch=4, steady=steady) == []
        before, steady, alone = (
            read_clip(path) for path in (clip, tmp_path / "steady.mp4", tmp_path / "alone.mp4")
        )
        low = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) for frame in before["frames"]])
        expected = Steady(enhance)(low, before["times"]).permute(0, 2, 3, 1).float().mean((1, 2))
        means = [np.stack([frame.mean((0, 1)) for frame in film["frames"]]) for film in (steady, alone)]
        assert np.abs(means[0] - expected.numpy()).max() < 10  # compression, of the noise of a random network
        assert np.abs(means[1] - means[0])[0].max() < 1
        assert np.abs(means[1] - means[0])[1:].max() > 1

    def test_resume(self, clip: Path, tmp_path: Path) -> None:
        target, calls = tmp_path / "out.mp4", []

        def seen(pixels: Tensor) -> Tensor:
            calls.append(len(pixels))
            return pixels

        for _ in range(2):
            assert enhance_files(seen, [(clip, target)], batch=4, resume=True) == []
        assert calls == [4, 3]
        target.write_bytes(target.read_bytes()[:500])
        assert enhance_files(seen, [(clip, target)], batch=4, resume=True) == []
        assert calls == [4, 3, 4, 3]

    def test_what_fails_is_listed_and_leaves_nothing(
        self, clip: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broken = clip.with_name("broken.mp4")
        broken.write_bytes(clip.read_bytes()[:700])
        arguments = ["enhance", str(clip.parent), str(tmp_path / "day"), "--weights", str(weights)]
        assert main(arguments) == 1
        told = capsys.readouterr().err
        assert "1 of 2 files failed" in told
        assert str(broken) in told
        assert relative(tmp_path / "day") == ["clip.mp4"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
    def test_ctrl_c(self, kind: type[BaseException], tmp_path: Path) -> None:
        """Encoding goes on while the next frames are enhanced; it ends before the file is closed."""
        source, target = tmp_path / "in.mkv", tmp_path / "out.mp4"
        film(source, size=(320, 240), stamps=range(0, 120 * 33, 33), base=Fraction(1, 1000))
        target.write_bytes(b"of an earlier run")
        while_stopped: list[str] = []

        def stopped(pixels: Tensor) -> Tensor:
            if any(name.startswith(".out.mp4") for name in relative(tmp_path)):
                while_stopped.extend(relative(tmp_path))
                raise kind
            return pixels

        with pytest.raises(kind):
            enhance_files(stopped, [(source, target)], batch=30)
        assert len(while_stopped) == 3  # a part was written already, under another name
        assert relative(tmp_path) == ["in.mkv", "out.mp4"]
        assert target.read_bytes() == b"of an earlier run"

    def test_without_the_extra(self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "av", None)
        (line,) = enhance_files(lambda pixels: pixels, [(clip, tmp_path / "out.mp4")])
        assert "glare-torch[video]" in line


def write_clip(path: Path, size: tuple[int, int], colorspace: int = 1) -> Path:
    """Seven frames that grow brighter, reddish, a fortieth of a second late now and then, turned; and a tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=Fraction(25, 2))
        video.width, video.height = size
        video.pix_fmt = "yuv444p" if size[0] % 2 else "yuv420p"
        video.options = {"crf": "10"}
        video.codec_context.colorspace = colorspace
        video.time_base = Fraction(1, 200)
        video.set_display_rotation(90)
        sound = file.add_stream("aac", rate=16000)
        for i in range(7):
            pixels = np.full((size[1], size[0], 3), (20 + 12 * i, 10 + 4 * i, 8), np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame = frame.reformat(format=video.pix_fmt, dst_colorspace=colorspace)
            frame.pts, frame.time_base = 16 * i + 5 * (i % 3 == 1), Fraction(1, 200)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        tone = np.sin(np.arange(8000) / 10)[None].astype(np.float32)
        wave = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        wave.sample_rate, wave.pts = 16000, 0
        file.mux(sound.encode(wave))
        file.mux(sound.encode(None))
    return path


def read_clip(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
        video = file.streams.video[0]
        found = {
            "frames": [frame.to_ndarray(format="rgb24") for frame in frames],
            "times": [frame.time for frame in frames],
            "rate": video.average_rate,
            "rotation": frames[0].rotation,
            "colorspace": int(frames[0].colorspace),
        }
    with av.open(str(path)) as file:
        found["sound"] = [bytes(packet) for packet in file.demux(audio=0)]
    return found
