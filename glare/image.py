"""Images of any kind as the batches that the network takes, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

#: An image that can be enhanced: a PIL image (RGB, RGBA, L, P), an (H,W,3) array or a (...,3,H,W) tensor.
Image: TypeAlias = "PIL.Image.Image | np.ndarray[Any, Any] | Tensor"

_MODES = ("RGB", "RGBA", "L", "P")
_ARRAY_DTYPES = ("uint8", "float16", "float32", "float64")
#: How far a float may lie outside [0,1]: a bicubic resize overshoots by less.
_OVERSHOOT = 0.1


def as_batch(image: Image) -> tuple[Tensor, Callable[[Tensor], Image]]:
    """Return any image as a batch of RGB images, and a function that undoes it.

    Args:
        image: a PIL image of mode RGB, RGBA, L or P; an (H,W,3) array, uint8 or float; or a (...,3,H,W)
            tensor, uint8 or float. Floats are in [0,1], give or take 0.1.

    Returns:
        The pixels, (B,3,H,W) in the image's own dtype and device, and the function that turns such a batch
        back into an image of the same kind: L is the luma of the result, P is quantised to a new palette of
        at most 256 colours, alpha is unchanged.

    Raises:
        TypeError: if it is none of these, or holds other numbers than uint8 or floats.
        ValueError: if the mode, the shape or the range is not as above, or the image is empty or holds NaN.

    >>> pixels, restore = as_batch(PIL.Image.new("RGBA", (4, 2)))
    >>> pixels.shape, restore(pixels).mode
    (torch.Size([1, 3, 2, 4]), 'RGBA')
    """
    if isinstance(image, PIL.Image.Image):
        return _pil_as_batch(image)
    if isinstance(image, np.ndarray):
        if str(image.dtype) not in _ARRAY_DTYPES:
            raise TypeError(f"Expected an array of dtype uint8 or float in [0,1] but got {image.dtype}.")
        if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise ValueError(f"Expected an array of shape (H,W,3), not empty, but got {image.shape}.")
        batch = _array_as_batch(image)
        _check_range(batch)
        return batch, _batch_as_array
    if isinstance(image, Tensor):
        if not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise TypeError(f"Expected a tensor of dtype uint8 or float in [0,1] but got {image.dtype}.")
        if image.ndim < 3 or image.shape[-3] != 3 or image.numel() == 0:
            raise ValueError(
                f"Expected a tensor of shape (...,3,H,W), not empty, but got {tuple(image.shape)}."
            )
        pixels = image.as_subclass(Tensor)
        _check_range(pixels)

        def restore(batch: Tensor) -> Tensor:
            result = batch.reshape(image.shape)
            return tv_tensors.wrap(result, like=image) if isinstance(image, tv_tensors.TVTensor) else result

        return pixels.reshape(-1, *image.shape[-3:]), restore
    raise TypeError(f"Expected a PIL image, an array or a tensor but got {type(image).__name__}.")


def to_float(pixels: Tensor) -> Tensor:
    """Convert pixels of any image dtype to float32 in [0,1]; the overshoot that `as_batch` lets pass is cut."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255.0
    return pixels.float().clamp(0.0, 1.0)


def from_float(pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverse of `to_float`: values are cut to [0,1] and, for uint8, rounded to the nearest level.

    Raises:
        ValueError: if uint8 is wanted, which would make black of it, and there is NaN.
    """
    if dtype == torch.uint8 and torch.isnan(pixels).any():
        raise ValueError("Expected the network to compute numbers but got NaN.")
    pixels = pixels.clamp(0.0, 1.0)
    return (pixels * 255.0).round().to(dtype) if dtype == torch.uint8 else pixels.to(dtype)


def log_input(image: Tensor) -> Tensor:
    """Return the input of the conditional encoder: log(x + 0.001), any shape, for x in [0,1] within [-6.91, 0.001]."""
    return torch.log(torch.clamp(image + 1e-3, min=1e-3))


def pad(image: Tensor, multiple: int, margin: int = 0) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Pad (B,C,H,W) at the right and the bottom, by at least ``margin``, to multiples of ``multiple``.

    The picture is mirrored where it is larger than the padding and its last row or column repeated where it
    is not, so that no edge is invented.

    Returns:
        The padded image, and the function that cuts any (...,H',W') of the padded size back to (...,H,W).
    """
    height, width = image.shape[-2:]
    bottom, right = ((size + margin + multiple - 1) // multiple * multiple - size for size in (height, width))
    if right:
        image = F.pad(image, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    if bottom:
        image = F.pad(image, (0, 0, 0, bottom), mode="reflect" if bottom < height else "replicate")
    return image, lambda padded: padded[..., :height, :width]


def _pil_as_batch(image: PIL.Image.Image) -> tuple[Tensor, Callable[[Tensor], PIL.Image.Image]]:
    if image.mode not in _MODES:
        raise ValueError(f"Expected a PIL image of mode {', '.join(_MODES)} but got {image.mode}.")
    if 0 in image.size:
        raise ValueError(f"Expected a PIL image, not empty, but got one of size {image.size}.")
    transparent = image.mode == "RGBA" or (image.mode == "P" and image.has_transparency_data)
    alpha = image.convert("RGBA").getchannel("A") if transparent else None

    def restore(batch: Tensor) -> PIL.Image.Image:
        result = PIL.Image.fromarray(_batch_as_array(batch))
        if alpha is not None:
            result.putalpha(alpha)
        if image.mode == "P":
            result = result.quantize()
        elif image.mode == "L":
            result = result.convert("L")
        # The file's information on the picture (profile, resolution) still holds, except for a transparent colour.
        result.info = {key: value for key, value in image.info.items() if key != "transparency"}
        return result

    return _array_as_batch(np.asarray(image.convert("RGBA" if transparent else "RGB"))[..., :3]), restore


def _array_as_batch(array: np.ndarray[Any, Any]) -> Tensor:
    # A copy in memory order: torch takes no negative strides and warns of read-only arrays.
    return torch.from_numpy(np.array(array, order="C")).permute(2, 0, 1)[None]


def _batch_as_array(batch: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).detach().cpu().numpy())


def _check_range(pixels: Tensor) -> None:
    if not pixels.is_floating_point():
        return
    low, high = torch.aminmax(pixels.detach())
    if torch.isnan(low):
        raise ValueError("Expected an image with values in [0,1] but got NaN.")
    # The comparison is one of tensors, so that 1.1 in half precision is not above 1.1.
    if low < -_OVERSHOOT or high > 1.0 + _OVERSHOOT:
        raise ValueError(
            f"Expected a float image with values in [0,1] but got values in [{low:.4g}, {high:.4g}]."
        )
