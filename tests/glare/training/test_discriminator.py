import pytest
import torch

from glare.model import GLARE
from glare.training.discriminator import PatchDiscriminator, adaptive_weight
from glare.training.stages import CodebookStage
from tests.glare.conftest import SMALL


class TestDiscriminator:
    def test_learns_to_tell_noise_from_its_absence(self) -> None:
        torch.manual_seed(0)
        judge = PatchDiscriminator(8)
        optimizer = torch.optim.Adam(judge.parameters(), lr=2e-3)
        flat = 0.5 * torch.ones(2, 3, 32, 32)
        for _ in range(20):
            loss = judge.own_loss(
                flat + 0.3 * torch.randn(2, 3, 32, 32), flat + 0.01 * torch.randn(2, 3, 32, 32)
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        assert judge(flat).mean() > 0.5
        assert judge(flat + 0.3 * torch.randn_like(flat)).mean() < -0.5

    def test_each_side_has_its_own_gradient(self) -> None:
        judge = PatchDiscriminator(8)
        image = torch.rand(1, 3, 32, 32, requires_grad=True)
        judge.own_loss(image, torch.rand(1, 3, 32, 32)).backward()
        assert image.grad is None
        judge.zero_grad()
        judge.loss_for(image).backward()
        assert image.grad is not None
        assert all(p.grad is None for p in judge.parameters())

    def test_adaptive_weight_is_the_ratio_of_the_pulls(self) -> None:
        last = torch.ones(3, requires_grad=True)
        weight = adaptive_weight(6 * last.sum(), 2 * last.sum(), last)
        assert weight.item() == pytest.approx(3.0, rel=1e-3)

    def test_the_decoder_listens_after_the_warm_up(self) -> None:
        stage = CodebookStage(GLARE(SMALL), adversarial_after=2)
        image = torch.rand(2, 3, 32, 32)
        told = [stage(image, image)[1] for _ in range(3)]
        assert ["adversarial_weight" in logs for logs in told] == [False, False, True]
        assert all("discriminator" in logs for logs in told)
        loss, _ = stage(image, image)
        loss.backward()
        assert all(p.grad is not None for p in stage.discriminator.parameters())
