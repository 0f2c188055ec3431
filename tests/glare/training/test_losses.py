from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from glare.metrics import LPIPS
from glare.training.losses import Restoration, build_by_name, colour_loss, detail_loss, ms_ssim
from tests.glare.training.conftest import halves


class TestLosses:
    def test_ms_ssim_of_equal_and_of_unlike_images(self) -> None:
        image = torch.rand(2, 3, 64, 64)
        assert ms_ssim(image, image).item() == pytest.approx(1.0, abs=1e-5)
        assert ms_ssim(torch.rand(2, 3, 64, 64), image).item() < 0.3

    @pytest.mark.parametrize("side", [32, 64, 180])
    def test_any_crop_has_finite_gradients(self, side: int) -> None:
        image = (1 - torch.rand(1, 3, side, side)).requires_grad_()
        Restoration()(image, 1 - image.detach())[0].backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()

    def test_detail_loss_sees_grain_where_it_is_too_dark(self) -> None:
        torch.manual_seed(0)
        reference = torch.rand(2, 3, 64, 48)
        grain = 0.1 * torch.randn_like(reference)
        assert detail_loss(reference - 0.3, reference).item() == pytest.approx(0.0, abs=1e-6)
        # To a plain L1 the grain of a region that is too dark all over is nothing.
        shift = 1.0
        with_grain, without = (reference - shift + g for g in (grain, 0 * grain))
        assert F.l1_loss(with_grain, reference).item() == pytest.approx(shift, abs=1e-2)
        assert detail_loss(with_grain, reference) > detail_loss(without, reference) + 0.05

    def test_colour_loss_sees_colour_alone(self) -> None:
        image = torch.rand(2, 3, 32, 32)
        assert colour_loss(image + 0.3, image).item() == pytest.approx(0.0, abs=1e-6)
        # Red alone by 0.3: 0.2 from its grey, the others 0.1 each.
        tinted = image + torch.tensor([0.3, 0.0, 0.0]).view(3, 1, 1)
        assert colour_loss(tinted, image).item() == pytest.approx((0.2 + 0.1 + 0.1) / 3, rel=1e-5)

    def test_frozen_networks_add_their_share(self, chance: Path) -> None:
        image, reference = torch.rand(2, 2, 3, 64, 64).unbind()
        image.requires_grad_()
        lpips, features = LPIPS(chance), build_by_name(f"{__name__}:{halves.__name__}:2")
        plain, _ = Restoration()(image, reference)
        restoration = Restoration(lpips, features)
        loss, parts = restoration(image, reference)
        coarse, wanted = (F.avg_pool2d(t, 2) for t in (image, reference))
        distance = (coarse - wanted).abs().mean() / wanted.mean()
        perceived = lpips(image, reference).mean()
        expected = plain + restoration.perceptual_weight * perceived + restoration.features_weight * distance
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(parts["features"], distance.detach())
        loss.backward()
        assert image.grad is not None
        assert image.grad.count_nonzero() == image.numel()
        # Of a large batch they see half.
        many = torch.rand(12, 3, 64, 64)
        seen: list[int] = []
        Restoration(features=lambda images: seen.append(len(images)) or [images])(many, many.flip(0))
        assert seen == [6, 6]
        # Frozen: nothing of them is trained or written into a checkpoint.
        assert not list(restoration.parameters())
        assert not restoration.state_dict()
        assert all(p.grad is None for p in lpips.parameters())

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("torch", "MODULE:CALLABLE"),
            ("torch:", "MODULE:CALLABLE"),
            ("torch:no_such", "callable 'no_such'"),
        ],
    )
    def test_features_that_are_not_there(self, name: str, told: str) -> None:
        with pytest.raises(ValueError, match=told):
            build_by_name(name)
