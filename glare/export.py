"""The network as an ONNX file, for runtimes without Python.

The graph is the arithmetic of `GLARE.forward` on RGB images of any size, cut to [0,1] as `GLAREEnhance` does. Some
parts are written in another form, because ONNX has no word for them or because the number of their pieces depends on
the size: the padding, the pooling onto a grid, the search for the nearest code, the inverse of the flow.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glare.codebook import Quantizer
from glare.files import whole_file
from glare.flow import Flow, FlowStep
from glare.fusion import Warp, sample_and_convolve
from glare.layers import Attention, Upsample
from glare.model import GLARE

OPSET = 20
#: How many codes' distances are held at once, for every position.
_CODES_AT_ONCE = 256


def to_onnx(
    model: GLARE,
    path: str | Path,
    *,
    fidelity: float = 1.0,
    dtype: torch.dtype = torch.float32,
    half: bool = False,
) -> Path:
    """Write the network as an ONNX file, opset 20.

    The graph takes ``low``, (B,3,H,W) float32 RGB in [0,1] with any B and any H, W above `GLAREConfig.stride`, and
    returns ``image``, the same shape, in [0,1].

    Args:
        model: the network; it is not changed.
        path: the file to write, in one piece.
        fidelity: in [0, 2], see `GLARE.forward`; it is fixed in the file.
        dtype: `torch.float32`; `torch.float16` keeps the convolutions and their weights in that, for half the file and
            for GPUs. The flow, the code search, the deformable convolution and what goes in and out stay float32.
        half: the older spelling of ``dtype=torch.float16``.

    Returns:
        ``path``.

    Raises:
        ValueError: if ``fidelity`` or ``dtype`` is not as above.
        ModuleNotFoundError: if the extra ``onnx`` is not installed.
    """
    if not 0.0 <= fidelity <= 2.0:
        raise ValueError(f"Expected argument `fidelity` to be in [0, 2] but got {fidelity}.")
    if half:
        warnings.warn("`half=True` is now `dtype=torch.float16`.", FutureWarning, stacklevel=2)
        dtype = torch.float16
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"Expected argument `dtype` to be torch.float32 or torch.float16 but got {dtype!r}.")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Writing ONNX needs {error.name}: pip install 'glare-torch[onnx]'.", name=error.name
        ) from error
    path = Path(path)
    network = _Network(model, fidelity, dtype == torch.float16).eval()
    low = torch.rand(2, 3, 41, 54)
    least = model.config.stride + 1  # the least side whose mirrored edge is as wide as the padding
    size = torch.export.Dim("height", min=least), torch.export.Dim("width", min=least)
    shapes = {"low": {0: torch.export.Dim("batch"), 2: size[0], 3: size[1]}}
    # A folder that cannot be made is told here, before the minute that tracing takes.
    with whole_file(path) as beside, torch.no_grad():
        program = torch.onnx.export(
            network,
            (low,),
            input_names=["low"],
            output_names=["image"],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        # The exporter notes for each node the lines and files on this machine that it comes from.
        for node in program.model.graph:
            node.metadata_props.clear()
        program.save(beside)
    return path


class _Network(nn.Module):
    """`GLARE` in evaluation, every part of it in a form that ONNX has."""

    def __init__(self, model: GLARE, fidelity: float, half: bool) -> None:
        super().__init__()
        # Weights in the order of channels_last stop ExecuTorch's own passes.
        self.model = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format)
        self.model.requires_grad_(False).eval()
        self.inverse = _FlowInverse(self.model.flow)
        self.fidelity = fidelity
        self.in_half = half
        for parent in list(self.model.modules()):
            for name, child in parent.named_children():
                if type(child) in _FORMS:
                    setattr(parent, name, _FORMS[type(child)](child))
        if half:
            for part in (self.model.condition, self.model.codebook, self.model.fusion):
                for module in part.modules():
                    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                        module.half()

    def forward(self, low: Tensor) -> Tensor:
        """Enhance (B,3,H,W) in [0,1]."""
        model = self.model
        height, width = low.shape[2:]
        stride = model.config.stride
        padded = low[:, :, _mirrored(height, stride)][:, :, :, _mirrored(width, stride)]
        with torch.autocast("cpu", dtype=torch.float16, enabled=self.in_half):
            condition = model.condition(padded)
            latent = self.inverse(condition.mean.float(), condition.feature.float())
            if model.config.latent_limit is not None:
                latent = latent.clamp(-model.config.latent_limit, model.config.latent_limit)
            features = model.code_features(latent)
            image: Tensor = model.fusion(latent, features, condition.skips, self.fidelity)
        return image[:, :, :height, :width].float().clamp(0.0, 1.0)


def _mirrored(size: int, multiple: int) -> Tensor:
    """Return indices of a row of ``size`` pixels, mirrored at its end up to a multiple of a number."""
    last = size - 1
    return last - (last - torch.arange((size + multiple - 1) // multiple * multiple)).abs()


class _FlowInverse(nn.Module):
    """`Flow.inverse` with the matrices inverted beforehand: ONNX has no inverse."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.steps = flow.steps
        for i, step in enumerate(flow.steps):
            matrix = torch.linalg.inv(cast(FlowStep, step).invconv.weight.double()).float()
            self.register_buffer(f"matrix{i}", matrix[:, :, None, None])

    def forward(self, v: Tensor, feature: Tensor) -> Tensor:
        """Carry (B,C,h,w) to the latent (B,C,h,w), under the condition (B,F,h,w)."""
        with torch.autocast("cpu", enabled=False):
            for i in reversed(range(len(self.steps))):
                step = cast(FlowStep, self.steps[i])
                if step.coupling is not None:
                    v, _ = step.coupling.inverse(v, feature)
                v = step.actnorm.inverse(F.conv2d(v, self.get_buffer(f"matrix{i}")))
        return v


class _Attention(nn.Module):
    """`Attention` onto a grid by two averaging matrices, made from the size of the input."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        """Attend on a map (B,C,H,W)."""
        layer, (b, c, height, width) = self.attention, x.shape
        h = layer.norm(x)
        context, seen = h, None
        if layer.grid is not None:
            (rows, some), (columns, others) = _averages(height, layer.grid), _averages(width, layer.grid)
            context = rows.to(h.dtype) @ h @ columns.to(h.dtype).T
            seen = (some[:, None] & others).view(1, -1)
        q, k, v = (t.flatten(2).mT.unsqueeze(1) for t in (layer.q(h), layer.k(context), layer.v(context)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        return x + layer.proj(out.squeeze(1).mT.reshape(b, c, height, width))  # type: ignore[no-any-return]


def _averages(size: int, grid: int) -> tuple[Tensor, Tensor]:
    """Return `adaptive_avg_pool1d` from ``size`` to min(size, grid) as a matrix (grid, size), and its rows in use."""
    cell, pixel = torch.arange(grid)[:, None], torch.arange(size)
    cells = torch.clamp(pixel[-1] + 1, max=grid)
    start = cell * size // cells
    end = ((cell + 1) * size + cells - 1) // cells
    inside = ((pixel >= start) & (pixel < end)).float()
    return inside / inside.sum(1, keepdim=True).clamp(min=1.0), torch.arange(grid) < cells


class _Quantizer(nn.Module):
    """`Quantizer` in blocks of codes, the number of which does not depend on the size of the image."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.codes = quantizer.embedding.weight

    def forward(self, latent: Tensor) -> tuple[Tensor, None]:
        """Return the codes (B,C,H,W) of a latent (B,C,H,W), and None where `Quantizer` has indices."""
        with torch.autocast("cpu", enabled=False):
            flat = latent.float().movedim(1, -1)
            least = index = None
            for first in range(0, len(self.codes), _CODES_AT_ONCE):
                codes = self.codes[first : first + _CODES_AT_ONCE]
                distance, found = (codes.square().sum(1) - 2.0 * flat @ codes.T).min(-1)
                if least is None or index is None:
                    least, index = distance, found
                else:
                    index = torch.where(distance < least, found + first, index)
                    least = torch.minimum(distance, least)
            assert index is not None
            return F.embedding(index, self.codes).movedim(-1, 1), None


def _upsample(upsample: Upsample) -> nn.ConvTranspose2d:
    """Return `Upsample` as one transposed convolution, its kernel summed beforehand."""
    weight = upsample.conv.weight
    as_one = nn.ConvTranspose2d(weight.shape[1], weight.shape[0], 4, stride=2, padding=1)
    taps = weight.flip(2, 3).reshape(-1, 1, 3, 3)
    kernel = F.conv2d(taps, weight.new_ones(1, 1, 2, 2), padding=1).view(*weight.shape[:2], 4, 4)
    as_one.weight, as_one.bias = nn.Parameter(kernel.transpose(0, 1), False), upsample.conv.bias
    return as_one


class _Warp(Warp):
    """`Warp` by sampling, as on the CPU: few runtimes have the deformable convolution that ONNX has a word for."""

    def __init__(self, warp: Warp) -> None:
        nn.Module.__init__(self)
        self.groups, self.reduce, self.guide = warp.groups, warp.reduce, warp.guide
        self.offsets, self.weight, self.bias = warp.offsets, warp.weight, warp.bias

    def convolve(
        self, source: Tensor, offset: Tensor, mask: Tensor, corner: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """See `Warp.convolve`; in one piece, since the number of strips would hang on the size."""
        with torch.autocast("cpu", enabled=False):
            return sample_and_convolve(source, offset, self.weight, self.bias, mask, corner)


_FORMS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    Attention: _Attention,
    Quantizer: _Quantizer,
    Upsample: _upsample,
    Warp: _Warp,
}
