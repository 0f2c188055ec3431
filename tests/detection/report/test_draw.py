from pathlib import Path

import numpy as np

from detection import Detections
from detection.report.draw import Panel, save_picture, side_by_side


class TestPicture:
    image = np.full((100, 200, 3), 50, np.uint8)

    def boxes(self, score: float) -> Detections:
        return Detections(np.array([[20.0, 40, 120, 80]]), np.array([score]), np.array([1]))

    def test_boxes_lie_where_they_belong(self) -> None:
        rows = [[Panel("a", self.image, self.boxes(0.9)), Panel("b", self.image, self.boxes(0.1))]]
        pixels = np.asarray(side_by_side(rows, ["cat", "dog"], width=204))  # at the image's own size
        assert pixels.shape == (100 + 22 + 2, 2 * 204, 3)
        green = (pixels == [60, 180, 75]).all(axis=-1)  # the colour of class 1
        y, x = np.nonzero(green)
        assert abs(x.min() - 22) <= 1
        assert abs(x.max() - 122) <= 1
        assert abs(y.max() - 102) <= 1
        assert not green[:, 204:].any()  # a score of 0.1 is not drawn

    def test_rows_are_stacked(self, tmp_path: Path) -> None:
        panel = Panel("a", self.image, self.boxes(0.9))
        sheet = side_by_side([[panel, panel], [panel, panel], [panel, panel]], ["cat", "dog"], width=104)
        assert sheet.size == (208, 3 * (50 + 22 + 2))
        save_picture(sheet, tmp_path / "sheet.jpg")
        assert list(tmp_path.iterdir()) == [tmp_path / "sheet.jpg"]
