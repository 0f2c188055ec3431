from __future__ import annotations

import itertools
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from glare import GLAREEnhance
from glare.batch import enhance_files
from glare.cli import main
from glare.steady import Steady
from glare.video.reading import Reader
from glare.video.writing import Writer
from tests.clips import film

av = pytest.importorskip("av")


def relative(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


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

    def test_the_command_steadies_unless_told(self, clip: Path, weights: Path, tmp_path: Path) -> None:
        for name, flags in (("steady", []), ("alone", ["--no-steady"])):
            target = tmp_path / f"{name}.mp4"
            assert main(["enhance", str(clip), str(target), "--weights", str(weights), *flags]) == 0
            expected = tmp_path / f"expected_{name}.mp4"
            assert enhance_files(GLAREEnhance(weights), [(clip, expected)], steady=name == "steady") == []
            assert target.read_bytes() == expected.read_bytes()
        assert (tmp_path / "steady.mp4").read_bytes() != (tmp_path / "alone.mp4").read_bytes()

    def test_reading_enhancing_and_writing_overlap(
        self, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each waits, within a frame, for what only the other one's next step tells."""
        decoding, enhancing = [threading.Event() for _ in range(9)], [threading.Event() for _ in range(9)]
        pixels_of, write = Reader._pixels, Writer.write
        decoded, enhanced, written = itertools.count(), itertools.count(), itertools.count()

        def decode(reader: Reader, frame: Any) -> Tensor:
            decoding[next(decoded)].set()
            return pixels_of(reader, frame)

        def enhance(pixels: Tensor) -> Tensor:
            number = next(enhanced)
            enhancing[number].set()
            assert number == 6 or decoding[number + 1].wait(20)
            return pixels

        def store(writer: Writer, chunk: Any, pixels: Tensor) -> None:
            number = next(written)
            assert number >= 6 or enhancing[number + 1].wait(20)
            write(writer, chunk, pixels)

        monkeypatch.setattr(Reader, "_pixels", decode)
        monkeypatch.setattr(Writer, "write", store)
        assert enhance_files(enhance, [(clip, tmp_path / "day.mp4")]) == []
        assert len(read_clip(tmp_path / "day.mp4")["frames"]) == 7

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
