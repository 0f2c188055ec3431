from __future__ import annotations

import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import skimage

from glare.batch import enhance_files
from glare.cli import main
from tests.clips import CONTAINERS, filled, film, packets_of, stamps_of, through, tone

av = pytest.importorskip("av")


#: In units of 1/90000 s.
TIMES = {
    "30, then 24 fps": [*range(0, 30000, 3000), *range(30000, 60000, 3750)],
    "a pause": [0, 3000, 6000, 186000, 189000],
    "a burst": [0, 3000, 3001, 3002, 6000, 9000],
    "jitter": [0, 3017, 5990, 9003, 12011, 14990],
    "a late start": [126000, 129000, 132000, 135000],
    "a telephone": [90 * ms for ms in (*range(0, 330, 33), *range(1800, 2200, 42))],
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

    def test_rounding_to_milliseconds_is_not_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mp4", stamps=TIMES["jitter"])
        assert through(source, tmp_path / "out.mkv", capsys) == []
        moved = [
            new - old for old, new in zip(stamps_of(source), stamps_of(tmp_path / "out.mkv"), strict=True)
        ]
        assert 0 < max(map(abs, moved)) <= Fraction(1, 2000)

    @pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
    def test_an_avi_has_the_rate_of_its_source(
        self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / f"in{suffix}", stamps=range(0, 90000, 3000))
        lines = through(source, tmp_path / "out.avi", capsys)
        with av.open(str(tmp_path / "out.avi")) as file:
            assert file.streams.video[0].average_rate == 30
        assert stamps_of(tmp_path / "out.avi") == [Fraction(number, 30) for number in range(30)]
        assert lines == []

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
        source = film(tmp_path / "in.mp4", stamps=range(0, 90000, 9000), rate=10, sound=[("aac", 0.0, "und")])
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
        source = film(tmp_path / "in.mp4", stamps=range(-9000, 9000, 3000), sound=[("aac", -0.1, "und")])
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

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("a pause", []),
            ("jitter", []),
            (
                "a burst",
                ["frames moved by up to +8.311 ms", "the last frame is shown for 4.167 ms, not for 33.33 ms"],
            ),
            ("a late start", ["frames moved by up to -1400 ms"]),
        ],
    )
    def test_an_avi_has_a_fixed_rate(
        self, name: str, told: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mp4", stamps=TIMES[name])
        assert through(source, tmp_path / "out.avi", capsys) == told
        assert len(stamps_of(tmp_path / "out.avi")) == len(TIMES[name])

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

    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".mp4"])
    def test_sound_that_pauses(self, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A second without sound: an AVI, which counts packets, plays on at once, and a line says by how much."""
        source = tmp_path / "in.mkv"
        with av.open(str(source), "w") as file:
            video = file.add_stream("libx264", rate=30, width=48, height=32)
            stream, packets = tone(file, "libmp3lame", 0.0, "und", seconds=0.5)
            for number in range(60):
                frame = filled((48, 32), "yuv420p", (90, 120, 140))
                frame.pts, frame.time_base = number, Fraction(1, 30)
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
            for number, packet in enumerate(packets):
                late = round((number > len(packets) // 2) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts + late, packet.dts + late, stream
                file.mux(packet)
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        before, after = stamps_of(source, "audio"), stamps_of(tmp_path / f"out{suffix}", "audio")
        assert before[-1] > 1.3
        if suffix == ".avi":
            line = lines[-1]
            found = re.fullmatch(r"stream 1 \(audio\) moved by up to (-\d+) ms", line)
            assert found
            assert float(found[1]) / 1000 == pytest.approx(float(after[-1] - before[-1]), abs=0.03)
            assert float(found[1]) < -900
        else:
            assert lines == []
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
            frames = [4.0 * frame.to_ndarray(format="gray") for frame in before.decode(video=0)]
            for number, frame in enumerate(after.decode(video=0)):
                image = frame.to_ndarray(format="gray")
                near = range(max(0, number - 1), min(number + 2, len(frames)))
                assert min(near, key=lambda n: np.abs(image - frames[n]).mean()) == number
            assert number == len(frames) - 1

    @pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe, as a second opinion")
    def test_ffprobe_says_the_same_of_both(self, source: Path, tmp_path: Path) -> None:
        target = tmp_path / "day.mp4"
        assert enhance_files(lambda pixels: pixels * 4, [(source, target)], batch=4) == []
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

    @pytest.mark.parametrize("language", ["ces", "cze", "deu", "fra", "fre", "ger", "jpn", "nld", "zho"])
    def test_quicktime_spells_languages_otherwise(
        self, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mkv", sound=[("aac", 0.0, language)])
        assert through(source, tmp_path / "out.mov", capsys) == []
        with av.open(str(tmp_path / "out.mov")) as file:
            found = file.streams.audio[0].metadata["language"]
        spellings = [{"ces", "cze"}, {"deu", "ger"}, {"fra", "fre"}, {"nld", "dut"}, {"zho", "chi"}, {"jpn"}]
        assert {found, language} in [names & {found, language} for names in spellings]

    @pytest.mark.parametrize(("suffix", "language"), [(".mov", "mri"), (".avi", "fra")])
    def test_a_language_that_a_container_cannot_tell(
        self, suffix: str, language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = film(tmp_path / "in.mp4", sound=[("aac", 0.0, language)])
        lines = through(source, tmp_path / f"out{suffix}", capsys)
        assert f"the language ({language}) of stream 1 (audio) is left out" in lines

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

    def test_attachments_and_data_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = tmp_path / "in.mkv"
        with av.open(str(source), "w") as file:
            video = file.add_stream("libx264", rate=30, width=48, height=32)
            file.add_attachment("night.ttf", "font/ttf", bytes(range(64)))
            file.mux(video.encode(filled((48, 32), "yuv420p", (90, 120, 140))))
            file.mux(video.encode(None))
        (line,) = through(source, tmp_path / "out.mkv", capsys)
        assert line.startswith("left out: stream 1 (attachment, ")
        source = tmp_path / "in.ts"
        with av.open(str(source), "w") as file:
            video, data = file.add_stream("libx264", rate=30, width=48, height=32), file.add_data_stream()
            file.mux(video.encode(filled((48, 32), "yuv420p", (90, 120, 140))))
            file.mux(video.encode(None))
            packet = av.Packet(bytes(range(64)))
            packet.pts = packet.dts = 0
            packet.time_base, packet.stream = Fraction(1, 90000), data
            file.mux(packet)
        assert through(source, tmp_path / "out.mov", capsys) == ["left out: stream 1 (data, bin_data)"]

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
        for suffix in (".mkv", ".mp4", ".mov"):  # each out of the one before it
            target = tmp_path / f"out{suffix}"
            assert through(source, target, capsys) == []
            with av.open(str(target)) as file:
                (chapter,) = file.chapters()
            assert chapter["metadata"]["title"] == "Dusk"
            ends = [chapter[end] * chapter["time_base"] for end in ("start", "end")]
            assert ends == [0, Fraction(1, 10)]
            source = target

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
