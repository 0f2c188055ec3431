"""The fast forms of the network against the straightforward one."""

import copy

import pytest
import torch
from torch import nn

from experiments.straightforward import straightforward
from glare.config import GLAREConfig
from glare.model import GLARE
from tests.glare.conftest import SMALL, randomise


def network(config: GLAREConfig) -> GLARE:
    torch.manual_seed(0)
    model = GLARE(config)
    randomise(model)
    return model.eval()


@pytest.mark.parametrize("config", [SMALL, GLAREConfig.preset("tiny")], ids=["small", "tiny"])
@pytest.mark.parametrize("size", [(64, 64), (73, 90)])
@torch.no_grad()
def test_the_same_image_as_the_straightforward_form(config: GLAREConfig, size: tuple[int, int]) -> None:
    model = network(config)
    low = torch.rand(2, 3, *size) * 0.3
    expected = straightforward(model)(low)
    assert expected.std() > 0.01
    torch.testing.assert_close(model(low), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(model.optimize()(low), expected, rtol=0, atol=1e-4)


class TestOptimize:
    def test_is_frozen_and_apart_from_the_model(self, model: GLARE) -> None:
        low, before = torch.rand(1, 3, 16, 16), copy.deepcopy(model)
        fast = model.optimize()
        assert not any(p.requires_grad for p in fast.parameters())
        assert all(p.requires_grad for p in model.parameters())
        with torch.no_grad():
            expected = fast(low)
            for parameter in model.parameters():
                parameter.add_(0.1)
            assert torch.equal(fast(low), expected)
            torch.testing.assert_close(expected, before(low), rtol=0, atol=1e-5)
            assert torch.equal(fast.optimize()(low), expected)

    def test_parameters_that_change_are_seen_by_the_model_itself(self, model: GLARE) -> None:
        low = torch.rand(1, 3, 16, 16)
        with torch.no_grad():
            model(low)
            nn.init.constant_(model.flow.steps[0].actnorm.bias, 0.7)
            torch.testing.assert_close(model(low), straightforward(model)(low), rtol=0, atol=1e-4)

    def test_passes_the_models_gradient_to_the_image(self, model: GLARE) -> None:
        low = torch.rand(1, 3, 16, 16, requires_grad=True)
        (ours,) = torch.autograd.grad(model.optimize()(low).square().sum(), low)
        (expected,) = torch.autograd.grad(model(low).square().sum(), low)
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())

    def test_compiles_into_one_graph(self, model: GLARE) -> None:
        with torch.no_grad():
            graph = torch.export.export(model.optimize(), (torch.rand(1, 3, 32, 32),), strict=True).module()
            low = torch.rand(1, 3, 32, 32)
            torch.testing.assert_close(graph(low), model(low), rtol=0, atol=1e-4)
