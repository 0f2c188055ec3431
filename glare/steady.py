"""Video without flicker: what the network takes from the whole picture follows a running mean over time.

Every frame is enhanced alone, and the statistics of its whole picture set its tone: the mean and variance of each norm,
the keys that attention pools, the mean to which a warp is brought. A lamp that is switched on in one corner, or noise
alone, moves them, and with them the level of all the rest. Here they move by a share of what is new, as an eye adapts;
what is seen at each place is that frame's own, so nothing is smeared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glare.fusion import Warp
from glare.image import to_float
from glare.layers import Attention, Norm, RunningMean
from glare.transform import GLAREEnhance

#: Seconds in which a running mean comes nearer by a factor of e.
SECONDS = 0.5
#: Two frames belong to two scenes where a small picture of them differs by so much: the mean of |log(x + 0.02)|.
CUT = 0.5
_SIDE = 16  # of the small picture


class Steady:
    """Enhance the frames of one video after the other, without flicker.

    The first frame, and the first one after a cut, is what ``enhance`` makes of it alone.

    Args:
        enhance: the transform; it is not changed, and its weights are those of this moment.
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
        """Forget what was seen: another video begins."""
        self._time: float | None = None
        self._small = torch.empty(0)

    def __call__(self, frames: Tensor, times: Sequence[float]) -> Tensor:
        """Enhance the next frames, one by one.

        Args:
            frames: (N,3,H,W), uint8 or float in [0,1].
            times: when they are shown, in seconds.

        Returns:
            (N,3,H,W), as `GLAREEnhance` gives it.
        """
        return torch.cat(
            [self._next(frame, time) for frame, time in zip(torch.split(frames, 1), times, strict=True)]
        )

    def _next(self, frame: Tensor, time: float) -> Tensor:
        small = _small(frame)
        share = 1.0  # where a video begins, also again, and at a cut
        if self._time is not None and time >= self._time and not _is_cut(self._small, small):
            share = 1.0 - math.exp((self._time - time) / self.seconds)
        for mean in self.means:
            mean.share = share
        self._time, self._small = time, small
        result: Tensor = self.enhance(frame)
        return result


def _is_cut(old: Tensor, new: Tensor) -> bool:
    return old.shape != new.shape or bool((new - old).abs().mean() > CUT)


def _small(frame: Tensor) -> Tensor:
    """The logarithm of a frame (1,3,H,W) at a small size, in which noise is averaged out."""
    step = max(1, min(frame.shape[2:]) // (8 * _SIDE))
    pixels = to_float(frame[:, :, ::step, ::step]).mean(1, keepdim=True)
    height, width = (min(_SIDE, length) for length in pixels.shape[2:])
    return torch.log(F.adaptive_avg_pool2d(pixels, (height, width)) + 0.02)
