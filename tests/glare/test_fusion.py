import pytest
import torch

from glare.fusion import MixUp, Warp
from tests.glare.conftest import randomise


class TestMixUp:
    @pytest.mark.parametrize("fidelity", [0.0, 0.5, 1.0, 2.0])
    def test_is_a_weighted_mean(self, fidelity: float) -> None:
        mix = MixUp(0.4)
        skip, h = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
        share = min(1.0, fidelity * torch.sigmoid(torch.tensor(0.4)).item())
        torch.testing.assert_close(mix(skip, h, fidelity), share * skip + (1 - share) * h)

    def test_ends(self) -> None:
        mix = MixUp(3.0)
        skip, h = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
        assert torch.equal(mix(skip, h, 0.0), h)
        assert torch.equal(mix(skip, h, 2.0), skip)


class TestWarp:
    @pytest.mark.parametrize(("reduced", "groups"), [(None, 4), (4, 2)])
    def test_gradcheck(self, reduced: int | None, groups: int) -> None:
        torch.manual_seed(0)
        warp = Warp(8, reduced, groups).double()
        randomise(warp)
        code, target = torch.randn(2, 1, 8, 4, 5, dtype=torch.float64).unbind()
        code.requires_grad_()
        target.requires_grad_()
        assert warp(code, target).shape == (1, 8, 4, 5)
        assert torch.autograd.gradcheck(warp, (code, target), eps=1e-7, atol=1e-5)

    def test_starts_as_an_ordinary_convolution_at_half_strength(self) -> None:
        warp = Warp(8, None, 4)
        code, target = torch.randn(2, 1, 8, 6, 7).unbind()
        expected = 0.5 * torch.nn.functional.conv2d(code, warp.weight, padding=1) + warp.bias.view(-1, 1, 1)
        torch.testing.assert_close(warp(code, target), expected, rtol=0, atol=1e-5)

    @pytest.mark.parametrize(("reduced", "groups"), [(None, 4), (4, 2)])
    @pytest.mark.parametrize("size", [(1, 5), (6, 7), (20, 33)])
    def test_both_forms_are_one_convolution(
        self, size: tuple[int, int], reduced: int | None, groups: int
    ) -> None:
        torch.manual_seed(0)
        warp = Warp(8, reduced, groups)
        randomise(warp)
        with torch.no_grad():
            warp.offsets.weight.mul_(20)  # out of the picture and back
            code, target = torch.randn(2, 2, 8, *size).unbind()
            expected = warp(code, target)
        torch.testing.assert_close(warp(code, target).detach(), expected, rtol=0, atol=1e-4)

    def test_nan_is_passed_on_and_does_not_kill_the_process(self) -> None:
        warp = Warp(8, None, 4)
        target = torch.full((1, 8, 4, 4), float("nan"))
        assert warp(torch.randn(1, 8, 4, 4), target).isnan().all()

    def test_runs_under_bfloat16_autocast(self) -> None:
        warp = Warp(8, None, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert warp(torch.randn(1, 8, 4, 4).bfloat16(), torch.randn(1, 8, 4, 4)).dtype == torch.float32
