from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from glare.batch import enhance_files, find_jobs
from tests.clips import CONTAINERS, film, stamps_of, through, tone

av = pytest.importorskip("av")


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
            sound=[(sound, 0.0, "und")] if sound else [],
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
        data, cut = path.read_bytes(), tmp_path / f"cut{suffix}"
        for share in (0.45, 0.5, 0.55, 0.6):
            cut.write_bytes(data[: int(share * len(data))])
            (line,) = enhance_files(lambda pixels: pixels, [(cut, tmp_path / "out.mp4")])
            assert ("of the 60 frames in its index are there" if suffix == ".mp4" else "of 2.00 s") in line
            frames = len(stamps_of(tmp_path / "out.mp4"))
            assert 20 < frames < 40
            with av.open(str(tmp_path / "out.mp4")) as file:  # not as long as the index of the cut file says
                assert file.duration / 1e6 == pytest.approx(frames / 30, abs=0.002)

    def test_a_cut_flv(self, whole: Path, tmp_path: Path) -> None:
        """At the end of a frame, so that no frame is damaged: the length in its head tells."""
        path, cut = tmp_path / "whole.flv", tmp_path / "cut.flv"
        with av.open(str(whole)) as source, av.open(str(path), "w") as file:
            stream = file.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    file.mux(packet)
        with av.open(str(path)) as file:
            places = [packet.pos for packet in file.demux(video=0) if packet.size]
        cut.write_bytes(path.read_bytes()[: places[30]])
        (line,) = enhance_files(lambda pixels: pixels, [(cut, tmp_path / "out.mp4")])
        assert "of 2.0" in line
        assert 20 < len(stamps_of(tmp_path / "out.mp4")) <= 30

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
