import numpy as np
import skimage.data

from detection import sample_set


class TestSampleSet:
    def test_six_photographs_with_boxes_inside(self) -> None:
        data = sample_set()
        assert len(data) == 6
        assert "no measurement" in data.note
        for sample in data.samples:
            height, width = sample.load().shape[:2]
            x1, y1, x2, y2 = sample.boxes.T
            assert len(sample.boxes) > 0
            assert (x1 >= 0).all()
            assert (y1 >= 0).all()
            assert (x2 <= width).all()
            assert (y2 <= height).all()
            assert (x2 > x1).all()
            assert (y2 > y1).all()

    def test_what_is_in_them(self) -> None:
        data = sample_set()
        names = {s.name: sorted(data.classes[label] for label in s.labels) for s in data.samples}
        assert names["bus.jpg"] == ["Bicycle", "Bus", "People", "People", "People", "People"]
        assert names["chelsea.png"] == ["Cat"]
        assert names["coffee.png"] == ["Cup", "Table"]
        assert names["motorcycle_left.png"] == ["Bicycle", "Bottle", "Bottle", "Motorbike"]

    def test_photographs_are_the_packages_own(self) -> None:
        loaded = {s.name: s.load() for s in sample_set().samples}
        assert np.array_equal(loaded["astronaut.png"], skimage.data.astronaut())
        assert np.array_equal(loaded["motorcycle_left.png"], skimage.data.stereo_motorcycle()[0])
