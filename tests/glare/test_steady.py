from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F
from torch import Tensor

from glare import GLARE, GLAREEnhance
from glare.config import GLAREConfig
from glare.data.degrade import LEVELS, degrade, generator_for
from glare.layers import Norm, RunningMean
from glare.steady import Steady, _is_cut, _small

FPS = 25
#: With every part that looks at the whole picture.
FOLDED_AND_POOLED = dataclasses.replace(
    GLAREConfig.preset("tiny"), channels=8, norm_groups=4, attention_grid=4, codes=32, flow_hidden=8
)


def scene(frames: int, height: int = 96, width: int = 160, seed: int = 0) -> Tensor:
    """A dark scene from a camera that stands still: smooth shapes, and noise."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    shapes = 14 + 8 * torch.sin(rows / 9) * torch.cos(columns / 13) + 6 * (columns > width // 2)
    colour = torch.tensor([1.0, 0.9, 0.75])[:, None, None] * shapes
    noise = 2.0 * torch.randn(frames, 3, height, width, generator=generator)
    # The quarter that is looked at is the same in every frame: what changes there is tone alone.
    noise[..., height // 2 :, width // 2 :] = noise[:1, ..., height // 2 :, width // 2 :]
    return (colour + noise).round().clamp(0, 255).to(torch.uint8)


def night(photograph: str, level: str, size: tuple[int, int], left: int = 0) -> Tensor:
    """A frame (1,3,H,W) of a free photograph in the dark, from a column on."""
    light = torch.from_numpy(getattr(skimage.data, photograph)()).movedim(-1, 0)[None].float() / 255
    light = F.interpolate(light, (size[0], size[1] * 9 // 8), mode="area")[..., left : left + size[1]]
    dark = degrade(light, exposure=LEVELS[level], generator=generator_for(photograph, str(left)))
    return (255 * dark).round().byte()


def with_lamp(frames: Tensor, lit: list[bool]) -> Tensor:
    """The same with a lamp of 2 % of the picture in its upper left corner."""
    frames = frames.clone()
    height, width = frames.shape[2:]
    frames[torch.tensor(lit), :, : height // 5, : width // 10] = 230
    return frames


def unlit_levels(frames: Tensor) -> Tensor:
    """The mean level of the quarter that is farthest from the lamp, of each frame."""
    height, width = frames.shape[2:]
    return frames[..., height // 2 :, width // 2 :].float().mean((1, 2, 3))


def flicker(frames: Tensor) -> float:
    return float(unlit_levels(frames).diff().abs().mean())


def times(frames: Tensor) -> list[float]:
    return [number / FPS for number in range(len(frames))]


class TestFlicker:
    """With the weights that come with the package."""

    @pytest.fixture(scope="class")
    def enhance(self) -> GLAREEnhance:
        return GLAREEnhance("glare-tiny", device="cpu")

    def test_noise(self, enhance: GLAREEnhance) -> None:
        frames = scene(18)
        alone, steady = enhance(frames), Steady(enhance)(frames, times(frames))
        assert flicker(steady) < flicker(alone) / 3

    def test_a_lamp_that_blinks(self, enhance: GLAREEnhance) -> None:
        frames = with_lamp(scene(18), [number // 3 % 2 == 1 for number in range(18)])
        alone, steady = enhance(frames), Steady(enhance)(frames, times(frames))
        assert flicker(alone) > 1.0  # it is worth the trouble
        assert flicker(steady) < flicker(alone) / 3

    def test_a_lamp_that_stays_on_is_got_used_to(self, enhance: GLAREEnhance) -> None:
        frames = with_lamp(scene(45, 64, 96), [number >= 5 for number in range(45)])
        alone, steady = (unlit_levels(f) for f in (enhance(frames), Steady(enhance)(frames, times(frames))))
        jump = abs(float(alone[5] - alone[4]))
        assert float(steady.diff().abs().max()) < jump / 3
        assert abs(float(steady[-1] - alone[-1])) < 0.1 * jump + 0.5  # 1.6 seconds later

    def test_no_ghost(self, enhance: GLAREEnhance) -> None:
        """A pan: what differs from frames enhanced alone is a smooth tone, no picture of an earlier frame."""
        wide = scene(1, 96, 400)[0]
        frames = torch.stack([wide[..., 16 * number : 16 * number + 160] for number in range(10)])
        alone, steady = enhance(frames).float(), Steady(enhance)(frames, times(frames)).float()
        difference = steady - alone
        sharp = difference - F.avg_pool2d(difference, 9, 1, 4, count_include_pad=False)
        assert float(sharp.square().mean().sqrt()) < 1.0  # of 255 levels

    def test_where_a_bright_thing_was_nothing_is_left_of_it(self, enhance: GLAREEnhance) -> None:
        """A white square crosses the picture; then its way looks as it does without it, but for the tone."""
        frames = scene(7, 64, 96)
        crossed = frames.clone()
        for number in range(5):
            crossed[number, :, 24:36, 16 * number : 16 * number + 12] = 255
        without, result = (Steady(enhance)(clip, times(clip))[-1].float() for clip in (frames, crossed))
        difference = result - without
        tone = difference[:, 48:].mean()  # below its way
        assert (difference[:, 24:36] - tone).mean().abs() < 1.0  # of 255 levels


class TestSteady:
    """With a network of any weights."""

    @pytest.fixture
    def enhance(self, model: GLARE) -> GLAREEnhance:
        return GLAREEnhance(model)

    def test_a_video_begins_with_the_frame_alone(self, enhance: GLAREEnhance) -> None:
        frames, steady = scene(3, 24, 32), Steady(enhance)
        for _ in range(2):  # the second time it begins again, as time goes back
            result = steady(frames, times(frames))
            assert (result[0].int() - enhance(frames[:1])[0].int()).abs().max() <= 1
            assert not torch.equal(result[2], enhance(frames[2:])[0])
        steady.reset()
        result = steady(frames[2:], [1.0])
        assert (result[0].int() - enhance(frames[2:])[0].int()).abs().max() <= 1

    def test_a_cut(self, enhance: GLAREEnhance) -> None:
        frames = torch.cat((scene(3, 24, 32), scene(3, 24, 32, seed=1).flip(3).add(60)))
        result = Steady(enhance)(frames, times(frames))
        assert (result[3].int() - enhance(frames[3:4])[0].int()).abs().max() <= 1

    @pytest.mark.parametrize("level", ["dark", "extreme"])
    @pytest.mark.parametrize("size", [(96, 128), (720, 960)])
    def test_a_cut_at_night_and_what_is_none(self, level: str, size: tuple[int, int]) -> None:
        """From each of four photographs to each other one; and a lamp, a pan, another exposure of the same."""
        nights = {name: night(name, level, size) for name in ("astronaut", "coffee", "chelsea", "rocket")}
        for old, new in itertools.permutations(nights, 2):
            assert _is_cut(_small(nights[old]), _small(nights[new])), (old, new)
        for name, frame in nights.items():
            for share in (0.02, 0.2, 0.3):
                lit = frame.clone()
                lit[..., : round(share * size[1])] = 230
                assert not _is_cut(_small(frame), _small(lit)), (name, share)
                assert not _is_cut(_small(lit), _small(frame)), (name, share)
            assert not _is_cut(_small(frame), _small(night(name, level, size, left=size[1] // 40))), name
            brighter = (1.5 * frame.float()).round().clamp(max=255).byte()
            assert not _is_cut(_small(frame), _small(brighter)), name
            assert _is_cut(_small(frame), _small((frame.int() + 100).clamp(max=255).byte())), name

    def test_in_pieces_as_in_one(self, enhance: GLAREEnhance) -> None:
        frames, steady = scene(4, 24, 32), Steady(enhance)
        pieces = [steady(frames[:1], [0.0]), steady(frames[1:], times(frames)[1:])]
        assert torch.equal(torch.cat(pieces), Steady(enhance)(frames, times(frames)))

    def test_no_frame_for_long_is_a_new_beginning(self, enhance: GLAREEnhance) -> None:
        frames = scene(2, 24, 32)
        result = Steady(enhance)(frames, [0.0, 3600.0])
        assert (result[1].int() - enhance(frames[1:])[0].int()).abs().max() <= 1

    def test_in_tiles_as_whole(self) -> None:
        torch.manual_seed(0)
        model = GLARE(FOLDED_AND_POOLED)
        frames = with_lamp(scene(4, 96, 160), [False, True, False, True])
        whole, tiled = (Steady(GLAREEnhance(model, tile=tile))(frames, times(frames)) for tile in (None, 64))
        assert (whole.int() - tiled.int()).abs().max() <= 2

    def test_the_enhancer_stays_as_it_was(self, enhance: GLAREEnhance) -> None:
        frames = scene(2, 24, 32)
        before = enhance(frames)
        Steady(enhance)(frames, times(frames))
        assert torch.equal(enhance(frames), before)

    def test_no_gradient(self, model: GLARE) -> None:
        """Not even of an enhancer that is trained: a running mean would hold all earlier frames."""
        frames = scene(2, 24, 32) / 255
        result = Steady(GLAREEnhance(model, trainable=True))(frames, times(frames))
        assert not result.requires_grad
        assert torch.equal(result, Steady(GLAREEnhance(model))(frames, times(frames)))

    def test_seconds_are_positive(self, enhance: GLAREEnhance) -> None:
        with pytest.raises(ValueError, match="`seconds` to be positive but got 0"):
            Steady(enhance, 0.0)

    def test_the_loop_of_the_documentation(
        self, enhance: GLAREEnhance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The example of docs/video.md, line by line, with a file for the camera and no window."""
        cv2 = pytest.importorskip("cv2")
        pytest.importorskip("av")
        from tests.clips import film

        clip = film(tmp_path / "clip.mkv", codec="ffv1", pix_fmt="yuv420p", planes=(40, 120, 140))
        page = (Path(__file__).parents[2] / "docs" / "video.md").read_text(encoding="utf-8")
        (example,) = re.findall(r"```python\n([^`]*Steady\(GLAREEnhance[^`]*)```", page)
        for theirs, ours in (("Steady(GLAREEnhance())", "Steady(enhance)"), ("(0)", f'("{clip}")')):
            assert example.count(theirs) == 1
            example = example.replace(theirs, ours)
        shown: list[Any] = []
        monkeypatch.setattr(cv2, "imshow", lambda _, image: shown.append(image))
        monkeypatch.setattr(cv2, "waitKey", lambda _: -1)
        exec(example, {"enhance": enhance})
        assert len(shown) == 8
        camera = cv2.VideoCapture(str(clip))
        expected = enhance(torch.from_numpy(camera.read()[1][..., ::-1].copy()).permute(2, 0, 1))
        assert np.array_equal(shown[0][..., ::-1], expected.permute(1, 2, 0).numpy())

    @pytest.mark.parametrize(
        ("frames", "times", "message"),
        [
            (np.zeros((1, 3, 8, 8)), [0.0], "`frames` to be a tensor of shape .* but got ndarray"),
            (torch.zeros(3, 8, 8), [0.0], r"`frames` to be a tensor of shape .* but got \(3, 8, 8\)"),
            (torch.zeros(1, 3, 8, 8), 0.0, "`times` to hold a time for each of 1 frames but got 0.0"),
            (torch.zeros(2, 3, 8, 8), [0.0], r"`times` to hold a time for each of 2 frames but got \[0.0\]"),
        ],
    )
    def test_mistakes(self, frames: Any, times: Any, message: str, enhance: GLAREEnhance) -> None:
        with pytest.raises(ValueError, match=message):
            Steady(enhance)(frames, times)


@torch.no_grad()
def test_a_norm_of_steadied_statistics_is_group_norm() -> None:
    """Where nothing is remembered yet."""
    torch.manual_seed(0)
    norm = Norm(4, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = 3.0 + 2.0 * torch.randn(1, 8, 12, 10)
    expected = norm(x)
    norm.steady = RunningMean()
    torch.testing.assert_close(norm(x), expected)
    norm.steady.share = 0.25
    mean, var = x.reshape(1, 4, -1).mean(2), x.reshape(1, 4, -1).var(2, correction=0)
    norm(2.0 * x)
    of_mean = 0.75 * mean + 0.25 * 2.0 * mean
    of_log = 0.75 * torch.log(var) + 0.25 * torch.log(4.0 * var)
    torch.testing.assert_close(norm.steady.value, torch.cat((of_mean, of_log)), atol=1e-4, rtol=1e-4)
