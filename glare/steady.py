"""Video without flicker: the network's statistics of the whole picture follow a running mean over time.

Every frame is enhanced alone, and the statistics of its whole picture set its tone: the mean and variance of each norm,
the keys that attention pools, the mean to which a warp is brought. A lamp that is switched on in one corner, or noise
alone, changes these statistics, and with them the level of the rest of the picture. `Steady` moves the statistics by
only a share of each change, as an eye adapts. The content of each place is that of the frame itself, so nothing is
smeared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence, Sized

import torch
import torch.nn.functional as F
from torch import Tensor

from glare.fusion import Warp
from glare.image import to_float
from glare.layers import Attention, Norm, RunningMean
from glare.transform import GLAREEnhance

#: Time constant in seconds: a running mean's distance to a new value falls by a factor of e in this time.
SECONDS = 0.5
#: Change of two small pictures' logarithms that makes a cut: of the median place, once what all places have in common
#: is taken away. A lamp changes fewer than half of the places, a change of exposure all of them alike. By four free
#: photographs at night: 0.15 to 0.5 from one to another, up to 0.08 where a lamp of 30 % of the picture is switched on
#: or the camera pans by 10 of 400 pixels.
CUT = 0.12
#: Change in common that is a new beginning, too: somebody has switched on the light.
LIGHT = 1.0
_SIDE = 16  # most sides of the small picture in pixels


class Steady:
    """Enhance the frames of a video one after the other, without flicker.

    The first frame, and the first frame after a cut, are enhanced as ``enhance`` does a single image.

    Args:
        enhance: the transform; `Steady` works on a copy, with the weights of this moment.
        seconds: the time constant of the running means.

    Raises:
        ValueError: if ``seconds`` is not positive.
    """

    def __init__(self, enhance: GLAREEnhance, seconds: float = SECONDS) -> None:
        if not seconds > 0.0:
            raise ValueError(f"Expected argument `seconds` to be positive but got {seconds}.")
        self.seconds = seconds
        self.enhance = copy.deepcopy(enhance)
        self.means = []
        for part in self.enhance.model.modules():
            if isinstance(part, Norm | Attention | Warp):
                part.steady = RunningMean()
                self.means.append(part.steady)
        self.reset()

    def reset(self) -> None:
        """Forget all earlier frames, because another video begins."""
        self._time: float | None = None
        self._small = torch.empty(0)

    def __call__(self, frames: Tensor, times: Sequence[float]) -> Tensor:
        """Enhance the next frames, one by one.

        Args:
            frames: (N,3,H,W) in RGB, uint8 or float in [0,1]; of a camera that is live, one frame at a time.
            times: the times at which the frames are shown, in seconds, by any clock: N numbers.

        Returns:
            (N,3,H,W), of the type that `GLAREEnhance` returns, without gradient.

        Raises:
            ValueError: if ``frames`` is no tensor of that shape, or there are not as many times as frames.
        """
        if not (isinstance(frames, Tensor) and frames.ndim == 4):
            got = tuple(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
            raise ValueError(f"Expected argument `frames` to be a tensor of shape (N,3,H,W) but got {got}.")
        if not isinstance(times, Sized) or len(times) != len(frames):
            raise ValueError(
                f"Expected argument `times` to hold a time for each of {len(frames)} frames but got {times}."
            )
        return torch.cat(
            [self._next(frame, time) for frame, time in zip(torch.split(frames, 1), times, strict=True)]
        )

    @torch.no_grad()  # a mean would hold the graphs of all earlier frames
    def _next(self, frame: Tensor, time: float) -> Tensor:
        small = _small(frame)
        share = 1.0  # at the start of a video, also when time jumps back, and at a cut
        if self._time is not None and time >= self._time and not _is_cut(self._small, small):
            share = 1.0 - math.exp((self._time - time) / self.seconds)
        for mean in self.means:
            mean.share = share
        self._time, self._small = time, small
        result: Tensor = self.enhance(frame)
        return result


def _is_cut(old: Tensor, new: Tensor) -> bool:
    if old.shape != new.shape:
        return True
    # By the scene's own darkness, and at least half a level of 255, so that noise in black is no change.
    black = 0.5 * torch.minimum(old, new).median() + 0.002
    change = torch.log((new + black) / (old + black))
    light = change.median()
    return bool(light.abs() > LIGHT or (change - light).abs().median() > CUT)


def _small(frame: Tensor) -> Tensor:
    """Return a frame (1,3,H,W) in grey at a small size, at which noise is averaged out."""
    step = max(1, min(frame.shape[2:]) // (8 * _SIDE))
    pixels = to_float(frame[:, :, ::step, ::step]).mean(1, keepdim=True)
    height, width = (min(_SIDE, math.ceil(length / 4)) for length in pixels.shape[2:])
    return F.adaptive_avg_pool2d(pixels, (height, width))
