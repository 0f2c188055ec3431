import sys

import numpy as np

from detection import Detector


class TestProtocol:
    def test_any_object_will_do(self) -> None:
        class Own:
            names = ("person",)

            def __call__(self, images: list[np.ndarray]) -> list[object]:
                return []

        assert isinstance(Own(), Detector)
        assert not isinstance(object(), Detector)

    def test_detection_imports_without_ultralytics(self) -> None:
        import subprocess

        code = "import sys, detection; assert 'ultralytics' not in sys.modules, 'imported'"
        subprocess.run([sys.executable, "-c", code], check=True)
