import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from glare.config import GLAREConfig
from glare.flow import ActNorm, Coupling, Flow, FlowStep, InvertibleConv, negative_log_likelihood
from tests.glare.conftest import SMALL, randomise


def flow(config: GLAREConfig = SMALL) -> Flow:
    torch.manual_seed(0)
    result = Flow(config).double()
    randomise(result)
    return result


def latent_and_feature(height: int = 3, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(2, 3, height, width, dtype=torch.float64, generator=generator)
    return z, torch.rand(2, SMALL.condition_channels, height, width, dtype=torch.float64, generator=generator)


def invertible_layers() -> list[nn.Module]:
    layers = [
        Coupling(SMALL),
        FlowStep(SMALL, plain=True),
        FlowStep(SMALL, plain=False),
    ]
    for layer in layers:
        randomise(layer)
    return [layer.double() for layer in layers] + [flow()]


class TestInvertible:
    @pytest.mark.parametrize("index", range(4))
    def test_round_trip_and_log_dets_cancel(self, index: int) -> None:
        layer = invertible_layers()[index]
        z, feature = latent_and_feature()
        v, log_det = layer(z, feature)
        back, inverse_log_det = layer.inverse(v, feature)
        torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
        torch.testing.assert_close(log_det + inverse_log_det, torch.zeros(2, dtype=torch.float64))
        assert (v - z).abs().max() > 0.01

    @pytest.mark.parametrize("index", range(4))
    def test_log_det_is_that_of_the_jacobian(self, index: int) -> None:
        layer = invertible_layers()[index]
        z, feature = latent_and_feature(2, 3)
        z, feature = z[:1], feature[:1]
        jacobian = torch.autograd.functional.jacobian(lambda t: layer(t, feature)[0], z).view(z.numel(), -1)
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(layer(z, feature)[1][0], expected)

    @settings(max_examples=15, deadline=None)
    @given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
    def test_any_size_in_float32(self, height: int, width: int, seed: int) -> None:
        layer = flow().float()
        z, feature = (t.float() for t in latent_and_feature(height, width, seed))
        back, _ = layer.inverse(layer(z, feature)[0], feature)
        torch.testing.assert_close(back, z, rtol=0, atol=1e-4)

    def test_steps_of_the_inverse_make_it_and_look_two_positions_far(self) -> None:
        layer = flow()
        v, feature = latent_and_feature(9, 8)
        with torch.no_grad():
            expected, steps = layer.inverse(v, feature)[0], layer.inverse_steps()
            near = v[:, :, :6].clone(), feature[:, :, :6].clone()
            part = steps[0](*near)
            torch.testing.assert_close(part[:, :, :4], steps[0](v, feature)[:, :, :4], rtol=1e-12, atol=1e-12)
            assert not torch.allclose(part[:, :, 4:], steps[0](v, feature)[:, :, 4:6])
            for step in steps:
                v = step(v, feature)
        torch.testing.assert_close(v, expected, rtol=1e-12, atol=1e-12)

    def test_gradcheck_both_ways(self) -> None:
        layer = flow()
        z, feature = (t[:1].requires_grad_() for t in latent_and_feature(2, 2))
        assert torch.autograd.gradcheck(layer, (z, feature))
        assert torch.autograd.gradcheck(layer.inverse, (z, feature))

    def test_stays_float32_under_autocast(self) -> None:
        layer = flow().float()
        z, feature = (t.float() for t in latent_and_feature())
        with torch.autocast("cpu", torch.bfloat16):
            v, log_det = layer(z, feature.bfloat16())
        assert (v.dtype, log_det.dtype) == (torch.float32, torch.float32)
        torch.testing.assert_close(v, layer(z, feature.bfloat16().float())[0], rtol=0, atol=0)


def test_actnorm_starts_from_data() -> None:
    norm = ActNorm(4)
    norm.start_from_data = True
    x = 3.0 + 2.0 * torch.randn(5, 4, 6, 7)
    y = norm(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var((0, 2, 3), correction=0), torch.ones(4))
    before = norm.bias.clone()
    norm(x + 1)
    assert torch.equal(norm.bias, before)


def test_flow_starts_from_data() -> None:
    layer = Flow(SMALL)
    z, feature = (t.float() for t in latent_and_feature(8, 8))
    layer.start_from_data(5.0 + 3.0 * z, feature)
    v, _ = layer(5.0 + 3.0 * z, feature)
    # Zero couplings at the start: each scales by sigmoid(2) + 1e-4 after its actnorm.
    assert v.mean().abs() < 1e-4
    assert 0.4 < v.std() < 1.1
    assert not any(m.start_from_data for m in layer.modules() if isinstance(m, ActNorm))


def test_1x1_matrix_starts_as_a_rotation() -> None:
    matrix = InvertibleConv(5).weight
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(5), rtol=0, atol=1e-5)


def test_likelihood_is_that_of_the_gaussian() -> None:
    v, mean = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    log_p = torch.distributions.Normal(mean, 1.0).log_prob(v).sum((1, 2, 3))
    expected = -(log_p + 7.0) / math.log(2) / 20
    torch.testing.assert_close(negative_log_likelihood(v, mean, torch.full((2,), 7.0)), expected)
