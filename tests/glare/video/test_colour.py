from __future__ import annotations

import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from glare import GLARE, GLAREEnhance
from glare.batch import enhance_files
from glare.steady import Steady
from tests.clips import CONTAINERS, FULL, LIMITED, as_rgb, colour, film, first_frame, matrix_of, through

av = pytest.importorskip("av")


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
        if shutil.which("ffmpeg") is None:  # whose own turning is a second opinion
            return
        command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gray", "-"]
        turned = subprocess.run(command, capture_output=True, check=True).stdout
        other = np.frombuffer(turned, np.uint8).reshape(result.shape)
        assert np.abs(result.astype(int) - other).mean() < 20

    #: FFmpeg's display matrices, and what a player makes of a picture (H,W).
    MIRRORED: ClassVar[dict[str, Any]] = {
        "left for right": ([-65536, 0, 0, 0, 65536, 0, 48 << 16, 0, 1 << 30], np.fliplr),
        "upside down": ([65536, 0, 0, 0, -65536, 0, 0, 32 << 16, 1 << 30], np.flipud),
        "transposed": ([0, 65536, 0, 65536, 0, 0, 0, 0, 1 << 30], np.transpose),
    }

    @pytest.mark.parametrize("how", MIRRORED)
    @pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mov", ".mp4", ".webm"])
    def test_mirrored(
        self, how: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        matrix, seen = self.MIRRORED[how]
        path = tmp_path / "in.mp4"
        pixels = np.zeros((32, 48, 3), np.uint8)
        pixels[:16, :24] = 200  # light at the upper left
        with av.open(str(path), "w") as file:
            video = file.add_stream("libx264", rate=30, options={"crf": "4"})
            video.width, video.height = 48, 32
            video.set_display_matrix(matrix)
            file.mux(video.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            file.mux(video.encode(None))
        through(path, tmp_path / f"out{suffix}", capsys)
        frame = first_frame(tmp_path / f"out{suffix}")
        if suffix == ".avi":  # which has no place for it: the picture itself is mirrored
            result = frame.to_ndarray(format="gray").astype(int)
            assert np.abs(result - seen(pixels[..., 0])).mean() < 20
        else:
            kept = np.frombuffer(bytes(frame.side_data["DISPLAYMATRIX"]), np.int32)
            assert [kept[i] for i in (0, 1, 3, 4)] == [matrix[i] for i in (0, 1, 3, 4)]

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
        for planes, least in (((77, 128, 128), 1.0), ((77, 105, 150), 2.5)):
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

    def test_ten_bits_go_through_the_network(self, model: GLARE, tmp_path: Path) -> None:
        source = film(
            tmp_path / "in.mkv", pix_fmt="yuv420p10le", planes=(301, 513, 511), tags={"colorspace": 1}
        )
        enhance = GLAREEnhance(model)
        assert enhance_files(enhance, [(source, tmp_path / "day.mkv")]) == []
        with av.open(str(source)) as file:
            frames = [frame.to_ndarray(format="gbrpf32le") for frame in file.decode(video=0)]
        low = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
        expected = Steady(enhance)(low, [number / 30 for number in range(len(low))]).mean((2, 3))
        with av.open(str(tmp_path / "day.mkv")) as file:
            found = [frame.to_ndarray(format="gbrpf32le").mean((0, 1)) for frame in file.decode(video=0)]
        assert (
            np.abs(np.stack(found) - expected.numpy()).max() < 0.05
        )  # compression, of what a random network makes

    def test_interlaced_frames_are_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source = film(
            tmp_path / "in.mpg",
            codec="mpeg2video",
            rate=25,
            base=Fraction(1, 25),
            stamps=range(8),
            options={"flags": "+ilme+ildct"},
        )
        assert "interlaced frames are stored as whole ones" in through(source, tmp_path / "out.mov", capsys)

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
