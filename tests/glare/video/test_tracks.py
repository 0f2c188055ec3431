from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from glare.batch import enhance_files
from tests.clips import filled, film, packets_of, through, tone

av = pytest.importorskip("av")


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
