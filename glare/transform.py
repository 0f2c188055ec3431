"""GLARE as a torchvision transform, to put in front of anything that looks at images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import is_pure_tensor

from glare import weights as glare_weights
from glare.image import as_batch, from_float, to_float
from glare.model import GLARE
from glare.tiled import Tiling
from glare.upsample import downsample, upsample


def _is_image(inpt: Any) -> bool:
    """Tell whether this is an image or, for plain tensors and arrays, has the form of one."""
    if isinstance(inpt, np.ndarray):
        return inpt.ndim == 3 and inpt.shape[2] == 3 and inpt.dtype.kind in "fu"
    if is_pure_tensor(inpt):
        tensor: Tensor = inpt
        return (
            tensor.ndim >= 3
            and tensor.shape[-3] == 3
            and (tensor.dtype == torch.uint8 or tensor.is_floating_point())
        )
    return isinstance(inpt, PIL.Image.Image | tv_tensors.Image | tv_tensors.Video)


class GLAREEnhance(v2.Transform):
    """Enhance low-light images with GLARE.

    Takes, and returns in kind (type, dtype, device and size as they came):

    - PIL images of mode RGB, RGBA (alpha is kept), L (enhanced as grey) and P (quantised to a new palette);
    - (H,W,3) arrays and (...,3,H,W) tensors, uint8 or float in [0,1];
    - ``tv_tensors.Image`` and ``tv_tensors.Video``;
    - samples of them, nested as you like: boxes, masks, labels and all else pass as the objects they are.

    The result is cut to [0,1]. Floats outside [0,1] by at most 0.1, as a bicubic resize makes them, are cut
    too. As everywhere in ``torchvision.transforms.v2``, a plain tensor or array beside a PIL image, an
    ``Image`` or a ``Video`` is data and passes; in a sample without those, the first that has the form of an
    image is enhanced and the others pass.

    Float tensors are enhanced differentiably: the gradient reaches the input, and with ``trainable`` the
    parameters. The whole image is then enhanced at once, so memory grows with its size.

    Frozen weights are read at the first image, stay out of ``state_dict()`` and are not pickled: a
    ``DataLoader`` worker reads its own. ``train()`` does not change the enhancement.

    Args:
        weights: the name of weights that come with the package, a folder, a ``.safetensors`` file, a Hugging
            Face Hub id, or a `GLARE` model: with ``trainable`` that very model, otherwise a frozen copy.
        fidelity: in [0, 2]. 1 is the trained model, 0 leans wholly on the codebook prior, above 1 on the
            input's detail.
        device: where to compute; ``None`` for the input's own device (with ``trainable``, the parameters').
            ``v2.Compose`` is no module: calling its ``.to()`` could not reach a transform, this does.
        dtype: ``None`` computes in float32, also inside an outer autocast; ``torch.bfloat16`` in autocast.
        tile: how images are computed where no gradient is asked for. ``None``: whole. A number T, at least 32: about
            T·T pixels at once, larger images in tiles of as many, strips of whole rows where those are not too long.
            The result is the same, to rounding; full attention (`GLAREConfig.attention_grid`) alone stays within T
            pixels a side. ``"auto"``: whole where that takes at most half of a GPU's free memory or, on the CPU, a
            quarter of the available memory and 3 GiB; on the CPU images of more than a megapixel (with the weights
            ``glare-tiny``) go in tiles all the same, which is faster, unless attention is full. Where a GPU's memory
            is exceeded, both go on with smaller tiles, with one warning, and keep to them.
        scale: in (0, 1]: the share of the image's size that the network sees. Its gain map is applied at full size, see
            `glare.upsample`.
        trainable: show the weights to ``parameters()``, with gradient; they are then loaded at once. The encoder and
            the codes of stage I, which training alone needs or which are looked up, never get one.

    Raises:
        TypeError: if an argument or the input has the wrong type, the input's dtype included.
        ValueError: if an argument is out of range, or the input has a mode or a shape other than the above,
            lies outside [0,1] by more than 0.1, is empty or holds NaN; or if there is no image in it; or if a
            gradient is asked for and ``tile`` is a number that has the image cut; or if the weights are of stages I
            or II alone.
        FileNotFoundError: if there are no such weights.

    Source: Zhou et al., "GLARE: Low Light Image Enhancement via Generative Latent Feature based Codebook
    Retrieval", ECCV 2024.

    Example:
        >>> pipeline = v2.Compose([GLAREEnhance(), v2.Resize(64)])
        >>> image = tv_tensors.Image(torch.randint(0, 30, (3, 32, 48), dtype=torch.uint8))
        >>> boxes = tv_tensors.BoundingBoxes([[4, 4, 20, 30]], format="XYXY", canvas_size=(32, 48))
        >>> image, boxes = pipeline(image, boxes)
        >>> image.shape, boxes.tolist()
        (torch.Size([3, 64, 96]), [[8, 8, 40, 60]])
    """

    # By default torchvision hands boxes and masks to `transform` too.
    _transformed_types = (_is_image,)

    def __init__(
        self,
        weights: str | Path | GLARE = "glare-tiny",
        *,
        fidelity: float = 1.0,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        tile: Literal["auto"] | int | None = "auto",
        scale: float = 1.0,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(weights, str | Path | GLARE):
            raise TypeError(
                "Expected argument `weights` to be a name, a path or a GLARE model but got "
                f"{type(weights).__name__}."
            )
        if isinstance(fidelity, bool) or not isinstance(fidelity, int | float | np.number):
            raise TypeError(f"Expected argument `fidelity` to be a number but got {type(fidelity).__name__}.")
        if not 0.0 <= fidelity <= 2.0:
            raise ValueError(f"Expected argument `fidelity` to be in [0, 2] but got {fidelity}.")
        if isinstance(scale, bool) or not isinstance(scale, int | float | np.number):
            raise TypeError(f"Expected argument `scale` to be a number but got {type(scale).__name__}.")
        if not 0.0 < scale <= 1.0:
            raise ValueError(f"Expected argument `scale` to be in (0, 1] but got {scale}.")
        if dtype not in (None, torch.float32, torch.bfloat16):
            raise ValueError(
                f"Expected argument `dtype` to be None, torch.float32 or torch.bfloat16 but got {dtype!r}."
            )
        if not isinstance(trainable, bool):
            raise TypeError(f"Expected argument `trainable` to be a bool but got {type(trainable).__name__}.")
        try:
            self.device = None if device is None else torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"Expected argument `device` to name a device but got {device!r}: {error}"
            ) from error
        if self.device is not None and self.device.type == "cuda" and not torch.cuda.is_available():
            raise ValueError(f"Expected argument `device` to be there but got {device!r}: torch sees no GPU.")
        self.weights = None if isinstance(weights, GLARE) else weights
        self.fidelity = float(fidelity)
        self.dtype = dtype
        self.tile = tile
        self.scale = float(scale)
        self.trainable = trainable
        self._tiling = Tiling(tile)

        # A list hides the frozen model from nn.Module, since weights read at the first image are no state of it.
        self._frozen: list[GLARE] = []
        if trainable:
            model = weights if isinstance(weights, GLARE) else glare_weights.load(weights)
            self.network = model.requires_grad_(True).eval().to(self.device)
        elif isinstance(weights, GLARE):
            self._frozen.append(weights.optimize())
        else:
            glare_weights.check_whole(weights)  # errors here, not at the first image

    @property
    def model(self) -> GLARE:
        """The network, read from its file at the first use, and frozen (see `GLARE.optimize`) unless ``trainable``."""
        if self.trainable:
            return self.network
        if self.weights is not None and not self._frozen:
            self._frozen.append(glare_weights.load(self.weights).optimize())
        return self._frozen[0]

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Refuse an input without an image; one of boxes and masks alone passes."""
        if any(_is_image(inpt) for inpt in flat_inputs):
            return
        if flat_inputs and all(isinstance(inpt, tv_tensors.TVTensor) for inpt in flat_inputs):
            return
        for inpt in flat_inputs:
            if isinstance(inpt, np.ndarray) or is_pure_tensor(inpt):
                as_batch(inpt)  # says what is wrong with it
        types = sorted({type(inpt).__name__ for inpt in flat_inputs})
        raise TypeError(f"Expected a PIL image, an array or a tensor, or a sample with one, but got {types}.")

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Choose the image among plain tensors and arrays: the first, or none beside an explicit image."""
        plain = [inpt for inpt in flat_inputs if isinstance(inpt, np.ndarray) or is_pure_tensor(inpt)]
        return {"image": plain[0] if plain and len(plain) == len(flat_inputs) else None}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Enhance one image of the sample."""
        if (isinstance(inpt, np.ndarray) or is_pure_tensor(inpt)) and inpt is not params["image"]:
            return inpt
        pixels, restore = as_batch(inpt)
        return restore(self._enhance(pixels))

    def _enhance(self, pixels: Tensor) -> Tensor:
        """Enhance (B,3,H,W), uint8 or float."""
        # Weights made or moved in inference mode, where detectors predict, could never see a gradient.
        with torch.inference_mode(False):
            model = self.model
            home = next(model.parameters()).device
            device = self.device or (home if self.trainable else pixels.device)
            if home != device:
                model.to(device)
        differentiable = pixels.is_floating_point() and (pixels.requires_grad or self.trainable)
        with (
            torch.set_grad_enabled(torch.is_grad_enabled() and differentiable),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16),
        ):
            if self.scale == 1.0:
                return self._at_once(model, pixels, device)
            image = to_float(pixels.to(device))
            small = downsample(image, self.scale).clamp(0.0, 1.0)
            enhanced = upsample(small, self._at_once(model, small, device), image)
            return from_float(enhanced, pixels.dtype).to(pixels.device)

    def _at_once(self, model: GLARE, pixels: Tensor, device: torch.device) -> Tensor:
        """What the network makes of (B,3,H,W), all it sees."""
        if not torch.is_grad_enabled():
            return self._tiling.enhance(model, pixels, self.fidelity)
        self._tiling.check_whole(pixels)
        enhanced: Tensor = model(to_float(pixels.to(device)), fidelity=self.fidelity)
        return from_float(enhanced.float(), pixels.dtype).to(pixels.device)

    def train(self, mode: bool = True) -> GLAREEnhance:
        """Set the flag that modules have; the network stays as it is used, in evaluation mode."""
        super().train(mode)
        if self.trainable:
            self.network.eval()
        return self

    def extra_repr(self) -> str:
        """Return the arguments as text."""
        weights = "GLARE(...)" if self.weights is None else repr(str(self.weights))
        names = ("fidelity", "device", "dtype", "tile", "scale", "trainable")
        return ", ".join([weights, *(f"{name}={getattr(self, name)!r}" for name in names)])

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the frozen weights, where they can be read again by their name."""
        return {**self.__dict__, "_frozen": self._frozen if self.weights is None else []}
