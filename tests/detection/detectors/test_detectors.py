import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detection import Detector, detector


class TestYours:
    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        (tmp_path / "a_detector_of_ours.py").write_text(
            "import numpy as np\n"
            "from detection import Detections\n"
            "class Corner:\n"
            "    names = ('person',)\n"
            "    def __call__(self, images):\n"
            "        return [Detections(np.array([[0., 0, 9, 9]]), np.ones(1), np.array([0])) for _ in images]\n"
            "class Versioned(Corner):\n"
            "    identity = 'corner 2'\n"
            "def number():\n"
            "    return 3\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        yield "a_detector_of_ours"
        sys.modules.pop("a_detector_of_ours", None)

    def test_is_called_and_known_by_its_source(self, module: str, tmp_path: Path) -> None:
        corner = detector(f"{module}:Corner")
        assert isinstance(corner, Detector)
        assert corner.names == ("person",)
        assert corner([np.zeros((20, 20, 3), np.uint8)])[0].boxes.tolist() == [[0, 0, 9, 9]]
        with (tmp_path / f"{module}.py").open("a") as file:
            file.write("# another thought\n")
        assert detector(f"{module}:Corner").identity != corner.identity
        assert detector(f"{module}:Versioned").identity == "corner 2"

    def test_mistakes(self, module: str) -> None:
        with pytest.raises(ValueError, match="to return a Detector but got int"):
            detector(f"{module}:number")
        with pytest.raises(ValueError, match="callable 'missing' but got None"):
            detector(f"{module}:missing")
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            detector("no_such_module:detect")
