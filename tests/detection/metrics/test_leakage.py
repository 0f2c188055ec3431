from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from detection import enhancer, read_test_sets, sample_set
from detection.enhancers import raw
from detection.metrics.leakage import find_leakage, scenes_seen
from glare import GLARE, GLAREEnhance, weights
from glare.data.overlap import fingerprints

CLASSICS = {name: enhancer(name) for name in ("gamma", "histogram")}


class TestTrainedOnTest:
    @pytest.fixture
    def pairs(self, tmp_path: Path) -> Iterator[Path]:
        for i, sample in enumerate(sample_set().samples):
            for side, factor in (("low", 8), ("high", 1)):
                folder = tmp_path / "set" / side
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(sample.load() // factor).resize((90, 60)).save(folder / f"{i}.png")
        return tmp_path / "set"

    def weights_with(self, tmp_path: Path, **history: object) -> GLAREEnhance:
        weights.save(GLARE("tiny"), tmp_path / "weights", history=[{"stage": "fusion", **history}])
        return GLAREEnhance(tmp_path / "weights")

    def test_is_told_by_picture_and_by_name(self, pairs: Path, tmp_path: Path) -> None:
        files = sorted((pairs / "high").iterdir())
        first, second, third = fingerprints(files[:3])
        other = f"{int(third[:16], 16) ^ (2**64 - 1):016x}"  # every bit of it is another
        lines = [first.replace(" 0.png", " 77.png"), second, f"{other} 5.jpg"]
        ours = self.weights_with(tmp_path, hashes=lines)
        data = read_test_sets(pairs)
        (by_picture, by_name), found = find_leakage(data.samples, {"raw": raw, "ours": ours})
        assert by_picture.startswith("Warning: ours was trained on 2 of the 6 test images")
        assert "flatters it: 0.png (77.png), 1.png (1.png)." in by_picture
        assert "1 of the 6 test images have the name, but not the looks" in by_name
        assert "5.png (5.jpg)" in by_name
        assert {(o.file.name, o.by) for o in found["ours"]} == {
            ("0.png", "picture"),
            ("1.png", "picture"),
            ("5.png", "name"),
        }

    def test_scenes_of_each_set_are_counted(self, pairs: Path, tmp_path: Path) -> None:
        pairs.rename(tmp_path / "first")
        for side in ("low", "high"):
            (tmp_path / "second" / side).mkdir(parents=True)
            (tmp_path / "first" / side / "4.png").rename(tmp_path / "second" / side / "4.png")
        files = sorted((tmp_path / "first" / "high").iterdir())
        ours = self.weights_with(tmp_path, hashes=fingerprints(files[:3]))
        data = read_test_sets(tmp_path / "first", tmp_path / "second")
        found = find_leakage(data.samples, {"raw": raw, "ours": ours})[1]
        title = tmp_path.name
        assert scenes_seen(data.samples, found) == [
            f"Scenes that the weights of ours were trained on, by set: {title}/first 3 of 5, {title}/second 0 of 1."
        ]

    def test_nothing_known_is_told_too(self, pairs: Path, tmp_path: Path) -> None:
        ours = self.weights_with(tmp_path, data=["lol_v1/train"])
        lines, found = find_leakage(read_test_sets(pairs).samples, {"ours": ours})
        assert found == {}
        (line,) = lines
        assert "tell no fingerprints" in line
        assert "they name lol_v1/train" in line

    def test_what_was_not_checked_is_told(self, pairs: Path, tmp_path: Path) -> None:
        broken = pairs / "high" / "0.png"
        broken.write_bytes(broken.read_bytes()[:500])  # its header is there
        ours = self.weights_with(tmp_path, hashes=["0123456789abcdef far.png"])
        data = read_test_sets(pairs)
        assert len(data) == 6
        (line,) = find_leakage(data.samples, {"ours": ours})[0]
        assert "was not checked: Cannot read the image" in line

    def test_nothing_to_tell(self, pairs: Path, tmp_path: Path) -> None:
        samples = read_test_sets(pairs).samples
        assert find_leakage(samples, CLASSICS) == ([], {})
        ours = self.weights_with(tmp_path, hashes=["0123456789abcdef far.png"])
        assert find_leakage(samples, {"ours": ours}) == ([], {"ours": []})
