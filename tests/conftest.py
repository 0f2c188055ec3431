"""What tests of both packages share."""

import os
from pathlib import Path

import pytest

# Workers side by side share the cores: with more threads than cores, OpenMP's threads wait for each other, and small
# operations take ten to a hundred times as long. Set before torch is imported, and for processes that tests start.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import torch


@pytest.fixture(scope="session")
def chance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole network of LPIPS with chance weights, in the file that somebody would give."""
    import lpips

    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).state_dict(), file)
    return file
