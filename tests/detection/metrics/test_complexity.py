from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from detection import enhancer
from detection.data.core import Pixels
from detection.enhancers import Folder, raw
from detection.metrics.complexity import complexity
from glare import weights

TRAINED = Path(__file__).parents[3] / "glare" / "pretrained" / "glare-tiny"


CLASSICS = {name: enhancer(name) for name in ("gamma", "histogram")}


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1, bias=False)

    def forward(self, image: Pixels) -> Pixels:
        x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        attended = nn.functional.scaled_dot_product_attention(*[x[:, :1, :64, :16]] * 3)
        assert attended.shape == (1, 1, 64, 16)
        return self.layer(self.layer(x)).clamp(0, 255).to(torch.uint8)[0].permute(1, 2, 0).numpy()


class TestPrice:
    def test_counts_products_and_sums(self) -> None:
        parameters, operations = complexity(Twice())
        assert parameters == pytest.approx(81 / 1e6)
        attention = 2 * 2 * 64 * 64 * 16
        assert operations == pytest.approx((2 * 2 * 81 * 256 * 256 + attention) / 1e9, rel=1e-9)

    def test_of_what_is_no_module_there_is_none(self, tmp_path: Path) -> None:
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        for enhance in (raw, CLASSICS["gamma"], Folder(tmp_path)):
            assert np.isnan(complexity(enhance)).all()

    @pytest.mark.skipif(not TRAINED.is_dir(), reason="glare-tiny is not trained yet")
    def test_of_glare(self) -> None:
        parameters, operations = complexity(enhancer("glare"))
        shapes = load_file(TRAINED / weights.FILE)
        assert parameters == pytest.approx(sum(tensor.numel() for tensor in shapes.values()) / 1e6, rel=0.01)
        assert 10 < operations < 30
