from pathlib import Path

import cv2
import numpy as np
import pytest

from detection import Detections
from detection.cache import Cache, fingerprint
from detection.timing import Cost

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
COST = Cost(12.345678901234567, 678.9)
FOUND = Detections(np.array([[1 / 3, 2, 3, 4.5]]), np.array([0.1 + 0.2]), np.array([7]))


def never() -> tuple[object, Cost]:
    raise AssertionError("made again")


class TestCache:
    def test_enhanced_image_comes_back(self, tmp_path: Path) -> None:
        made = 255 - IMAGE
        first = Cache(tmp_path / "c").enhanced(IMAGE, "inverse", lambda: (made, COST))
        again = Cache(tmp_path / "c").enhanced(IMAGE, "inverse", never)
        for pixels, cost, path in (first, again):
            assert np.array_equal(pixels, made)
            assert cost == COST
            assert path.is_file()
        assert [file.suffix for file in (tmp_path / "c").rglob("*") if file.is_file()] == [".png"]

    def test_detections_come_back(self, tmp_path: Path) -> None:
        Cache(tmp_path).detections(IMAGE, "d", lambda: (FOUND, COST))
        found, cost = Cache(tmp_path).detections(IMAGE, "d", never)
        assert np.array_equal(found.boxes, FOUND.boxes)
        assert np.array_equal(found.scores, FOUND.scores)
        assert np.array_equal(found.labels, FOUND.labels)
        assert cost == COST

    def test_nothing_found_and_an_unknown_cost(self, tmp_path: Path) -> None:
        nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64))
        unknown = Cost(1.0, float("nan"))
        Cache(tmp_path).detections(IMAGE, "d", lambda: (nothing, unknown))
        found, cost = Cache(tmp_path).detections(IMAGE, "d", never)
        assert len(found) == 0
        assert np.isnan(cost.mb)

    @pytest.mark.parametrize("change", ["pixel", "shape", "identity"])
    def test_anything_else_is_made_anew(self, tmp_path: Path, change: str) -> None:
        other, identity = IMAGE.copy(), "one"
        if change == "pixel":
            other[3, 3, 1] ^= 1
        elif change == "shape":
            other = other.reshape(10, 12, 3)
        else:
            identity = "two"
        cache = Cache(tmp_path)
        cache.enhanced(IMAGE, "one", lambda: (IMAGE, COST))
        made = np.full_like(other, 9)
        assert np.array_equal(cache.enhanced(other, identity, lambda: (made, COST))[0], made)

    @pytest.mark.parametrize("keep", [0, 20, -60])
    def test_damaged_files_are_made_anew(self, tmp_path: Path, keep: int) -> None:
        cache = Cache(tmp_path)
        cache.enhanced(IMAGE, "x", lambda: (IMAGE, COST))
        cache.detections(IMAGE, "x", lambda: (FOUND, COST))
        for file in [file for file in tmp_path.rglob("*") if file.is_file()]:
            file.write_bytes(file.read_bytes()[:keep])
        other = 255 - IMAGE
        assert np.array_equal(cache.enhanced(IMAGE, "x", lambda: (other, COST))[0], other)
        assert np.array_equal(cache.enhanced(IMAGE, "x", never)[0], other)
        assert cache.detections(IMAGE, "x", lambda: (FOUND, Cost(1, 2)))[1] == Cost(1, 2)
        assert cache.detections(IMAGE, "x", never)[1] == Cost(1, 2)

    def test_nothing_is_left_of_what_failed(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="made again"):
            Cache(tmp_path).enhanced(IMAGE, "x", never)  # type: ignore[arg-type]
        with pytest.raises(cv2.error):
            Cache(tmp_path).enhanced(IMAGE, "x", lambda: (IMAGE.astype(float), COST))  # type: ignore[arg-type]
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_fingerprint(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"one")
    b.write_bytes(b"one")
    assert fingerprint(a) == fingerprint(b) == fingerprint("one") == fingerprint(b"one")
    b.write_bytes(b"two")
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint("on", "e") != fingerprint("one") != fingerprint("o", "ne")
    before = fingerprint(tmp_path)
    a.write_bytes(b"three")
    assert fingerprint(tmp_path) != before
