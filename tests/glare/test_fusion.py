import weakref

import pytest
import torch
from torchvision.ops import deform_conv2d

from glare import fusion
from glare.fusion import Detail, MixUp, Warp
from glare.model import GLARE
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


class TestDetail:
    def test_starts_as_nothing_and_at_fidelity_0_the_input_is_not_seen(self) -> None:
        torch.manual_seed(0)
        detail = Detail(4)
        image, seen, other = torch.rand(3, 1, 3, 7, 9).unbind()
        torch.testing.assert_close(detail(image, seen, 1.0), image)
        randomise(detail)
        assert torch.equal(detail(image, seen, 0.0), detail(image, other, 0.0))
        assert not torch.allclose(detail(image, seen, 1.0), detail(image, other, 1.0), atol=1e-3)

    @pytest.mark.parametrize("strip", [1, 4 * 2 * 40 * 20 * 2, 2**21])
    @pytest.mark.parametrize("height", [1, 15, 41, 100])
    def test_strips_are_the_whole(self, height: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fusion, "STRIP_ELEMENTS", strip)
        torch.manual_seed(0)
        detail = Detail(4)
        randomise(detail)
        image, seen = torch.rand(2, 2, 3, height, 20).unbind()
        whole = detail(image, seen, 1.2)
        with torch.no_grad():
            torch.testing.assert_close(detail(image, seen, 1.2), whole, rtol=0, atol=1e-6)


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

    @pytest.mark.parametrize("strip", [1, 2**24])
    @pytest.mark.parametrize(("channels", "groups"), [(8, 1), (8, 4), (4, 2)])
    @pytest.mark.parametrize("size", [(1, 5), (6, 7), (20, 33)])
    def test_on_the_cpu_it_is_torchvisions(
        self, size: tuple[int, int], channels: int, groups: int, strip: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(fusion, "STRIP_ELEMENTS", strip)
        torch.manual_seed(0)
        code = torch.randn(2, channels, *size)
        offset = 4 * torch.randn(2, 18 * groups, *size)  # out of the picture and back
        mask, weight, bias = torch.rand(2, 9 * groups, *size), torch.randn(6, channels, 3, 3), torch.randn(6)
        expected = deform_conv2d(code, offset, weight, bias, padding=1, mask=mask)
        found = fusion._sampled_convolution(code, offset, weight, bias, mask)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize(("reduced", "groups"), [(None, 4), (4, 2)])
    def test_a_part_of_the_map_samples_from_the_whole(self, reduced: int | None, groups: int) -> None:
        torch.manual_seed(0)
        warp = Warp(8, reduced, groups)
        randomise(warp)
        warp.offsets.bias.data += 3.0
        code, target = torch.randn(2, 1, 8, 20, 33).unbind()
        source, (offset, mask) = warp.source(code), warp.guidance(code, target)
        part = (..., slice(6, 15), slice(10, 33))
        found = warp.convolve(source, offset[part], mask[part], (6, 10))
        torch.testing.assert_close(found, warp(code, target)[part], rtol=0, atol=1e-5)

    def test_nan_is_passed_on_and_does_not_kill_the_process(self) -> None:
        warp = Warp(8, None, 4)
        target = torch.full((1, 8, 4, 4), float("nan"))
        assert warp(torch.randn(1, 8, 4, 4), target).isnan().all()

    def test_runs_under_bfloat16_autocast(self) -> None:
        warp = Warp(8, None, 4)
        with torch.autocast("cpu", torch.bfloat16):
            assert warp(torch.randn(1, 8, 4, 4).bfloat16(), torch.randn(1, 8, 4, 4)).dtype == torch.float32


class TestFusion:
    @torch.no_grad()
    def test_a_condition_serves_many_calls(self, model: GLARE) -> None:
        latent, condition = model.restore_latent(torch.rand(1, 3, 16, 24))
        features = model.code_features(latent)
        first = model.fusion(latent, features, condition.skips)
        assert torch.equal(model.fusion(latent, features, condition.skips), first)
        assert not torch.equal(model.fusion(latent, features, condition.skips, 0.0), first)
        assert torch.equal(model.fusion.consume(latent, features, list(condition.skips)), first)

    @torch.no_grad()
    def test_consume_lets_go_of_what_it_has_used(self, model: GLARE) -> None:
        latent, condition = model.restore_latent(torch.rand(1, 3, 16, 24))
        features, skips = model.code_features(latent), list(condition.skips)
        half = weakref.ref(skips[-1])
        del condition
        alive: list[bool] = []
        model.fusion.decoder.up0.register_forward_hook(lambda *_: alive.append(half() is not None))
        model.fusion.consume(latent, features, skips)
        assert alive == [False]
        assert features == skips == []
