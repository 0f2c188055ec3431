import random
from collections.abc import Callable

import pytest
import torch

from glare.model import GLARE
from glare.training.stages import CodebookStage, FlowStage, FusionStage, build_stage
from tests.glare.conftest import SMALL
from tests.glare.training.conftest import brightness


class TestStages:
    def test_dead_codes_start_again(self) -> None:
        stage = CodebookStage(GLARE(SMALL))
        stage.unused.fill_(stage.revive_after)
        latent = torch.randn(1, 3, 2, 2)
        stage._revive(latent, torch.tensor([[[0, 1], [2, 3]]]))
        codes = stage.model.codebook.quantizer.embedding.weight[4:]
        distances = torch.cdist(codes, latent.flatten(2)[0].T)
        assert distances.amin(1).max() < 2e-3

    @pytest.mark.parametrize(
        ("build", "moving"),
        [
            (CodebookStage, {"codebook"}),
            (FlowStage, {"condition", "flow"}),
            (lambda m: FusionStage(m, joint=False), {"fusion"}),
            (lambda m: FusionStage(m, joint=True), {"fusion", "condition", "flow"}),
        ],
    )
    def test_gradient_reaches_what_is_trained_and_no_more(
        self, build: Callable[[GLARE], torch.nn.Module], moving: set[str]
    ) -> None:
        stage = build(GLARE(SMALL))
        loss, _ = stage(torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32))
        loss.backward()
        names = {n.split(".")[0] for n, p in stage.model.named_parameters() if p.grad is not None}
        assert names == moving

    def test_unknown_stage(self) -> None:
        with pytest.raises(ValueError, match="out of codebook, flow, fusion but got 'four'"):
            build_stage("four", GLARE(SMALL))


@pytest.mark.parametrize("joint", [False, True])
def test_an_objective_moves_what_is_trained(joint: bool) -> None:
    torch.manual_seed(0)
    model = GLARE("tiny")
    stage = FusionStage(model, joint=joint, objective=brightness("=0.5")).train()
    stage.objective_share, stage.likelihood = 1.0, 0.0
    low, high = torch.rand(2, 3, 32, 32) / 8, torch.rand(2, 3, 32, 32)
    gradients = []
    for weight in (0.0, 1.0):
        stage.objective_weight = weight
        torch.manual_seed(1)
        random.seed(1)
        loss, logs = stage(low, high)
        loss.backward()
        gradients.append([p.grad.clone() for p in stage.parameters() if p.grad is not None])
        stage.zero_grad()
    assert 0 < float(logs["objective"]) < 1
    assert any(not torch.equal(without, with_it) for without, with_it in zip(*gradients, strict=True))
    moved = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert moved == ({"fusion", "condition", "flow"} if joint else {"fusion"})
    assert "objective" not in stage.eval()(low, high)[1]
