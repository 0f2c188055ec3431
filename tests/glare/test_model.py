import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from glare.config import GLAREConfig
from glare.model import GLARE
from tests.glare.conftest import FOLDED, SMALL, randomise


@pytest.mark.parametrize("config", [SMALL, FOLDED])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 4), (5, 8), (17, 31), (32, 20)])
def test_any_size(config: GLAREConfig, size: tuple[int, int]) -> None:
    low = torch.rand(2, 3, *size)
    out = GLARE(config)(low)
    assert out.shape == low.shape
    assert out.isfinite().all()


def test_pads_with_the_mirrored_picture(model: GLARE) -> None:
    low = torch.rand(1, 3, 21, 30)
    mirrored = torch.from_numpy(np.pad(low.numpy(), ((0, 0), (0, 0), (0, 3), (0, 2)), mode="reflect"))
    torch.testing.assert_close(model(low), model(mirrored)[..., :21, :30], rtol=0, atol=1e-6)


def test_an_image_does_not_depend_on_its_neighbours(model: GLARE) -> None:
    low = torch.rand(3, 3, 24, 20)
    low[1] *= 0.01
    alone = torch.cat([model(image[None]) for image in low])
    torch.testing.assert_close(model(low), alone, rtol=0, atol=2e-5)


def test_is_deterministic(model: GLARE) -> None:
    low = torch.rand(1, 3, 24, 20)
    assert torch.equal(model(low), model(low))


def test_fidelity_moves_the_picture(model: GLARE) -> None:
    low = torch.rand(1, 3, 16, 16)
    pictures = [model(low, fidelity=f) for f in (0.0, 0.5, 1.0, 2.0)]
    assert all((a - b).abs().max() > 1e-4 for a, b in itertools.pairwise(pictures))


@pytest.mark.parametrize("config", [SMALL, dataclasses.replace(SMALL, warp_levels=(1,)), FOLDED])
def test_gradient_reaches_the_input_and_every_live_parameter(config: GLAREConfig) -> None:
    torch.manual_seed(0)
    model = GLARE(config)
    randomise(model)
    low = torch.rand(1, 3, 16, 16, requires_grad=True)
    model(low).square().sum().backward()
    assert low.grad is not None
    assert low.grad.abs().sum() > 0
    # What only stage I uses, and the codes, which a straight-through gradient passes by.
    idle = ("codebook.encoder", "codebook.quant_conv", "codebook.quantizer", "codebook.decoder.norm_out")
    idle += ("codebook.decoder.conv_out",)
    for level in range(min(config.warp_levels)):
        idle += (f"codebook.decoder.up{level}", f"codebook.decoder.level{level}")
    for name, parameter in model.named_parameters():
        if name.startswith(idle):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # Softmax ignores a shift of the keys.
            assert parameter.grad.abs().sum() > 0 or name.endswith(".k.bias"), name


def test_bfloat16_under_autocast(model: GLARE) -> None:
    low = torch.rand(1, 3, 24, 20)
    exact = model(low)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model(low).float() - exact).abs().mean() < 0.05 * exact.std()


@pytest.mark.parametrize(
    ("low", "fidelity", "message"),
    [
        (torch.rand(3, 8, 8), 1.0, r"shape \(B,3,H,W\) but got \(3, 8, 8\)"),
        (torch.rand(1, 1, 8, 8), 1.0, r"got \(1, 1, 8, 8\)"),
        (torch.rand(1, 3, 0, 8), 1.0, r"got \(1, 3, 0, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 1.0, r"floating point in \[0,1\] but got torch.uint8"),
        (torch.rand(1, 3, 8, 8), -1.0, r"Expected argument `fidelity` to be in \[0, 2\] but got -1.0."),
    ],
)
def test_errors(model: GLARE, low: torch.Tensor, fidelity: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(low, fidelity)


def test_tiny_keeps_its_budget() -> None:
    model = GLARE("tiny")
    assert sum(p.numel() for p in model.parameters()) <= 8e6
    for side, limit in ((256, 30e9), (640, 200e9)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(torch.rand(1, 3, side, side))
        assert counter.get_total_flops() <= limit


def test_base_has_the_official_widths() -> None:
    with torch.device("meta"):
        model = GLARE(GLAREConfig.preset("base"))
    # Encoder and decoder of stage I, conditional encoder, flow and second decoder: the counts of the release.
    assert sum(p.numel() for p in model.condition.parameters()) == 24_442_583
    assert sum(p.numel() for p in model.flow.parameters()) == 2_131_332
    assert sum(p.numel() for p in model.fusion.parameters()) == 38_701_789
    assert sum(p.numel() for p in model.codebook.parameters()) == 60_581_022


def test_latent_limit(model: GLARE) -> None:
    low = torch.rand(1, 3, 16, 16)
    free = model.restore_latent(low)[0]
    assert free.abs().max() > 0.1
    model.config = dataclasses.replace(model.config, latent_limit=0.1)
    torch.testing.assert_close(model.restore_latent(low)[0], free.clamp(-0.1, 0.1))
