from __future__ import annotations

from pathlib import Path

import pytest

from glare import GLARE
from glare import weights as glare_weights


@pytest.fixture
def weights(model: GLARE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glare_weights.save(model, tmp_path_factory.mktemp("weights")).parent
