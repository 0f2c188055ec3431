"""What tests of both packages share."""

from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def chance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole network of LPIPS with chance weights, in the file that somebody would give."""
    import lpips

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).state_dict(), file)
    return file
