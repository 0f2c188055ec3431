"""experiments/whose_map.py with what the tests' environment has: the other packages are in one of its own."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.scripts import load_script


def test_packages_agree_but_for_crowds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One box of two is found at the first try, and a false alarm lies in the crowd."""
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    boxes = [([0, 0, 20, 20], 0), ([40, 0, 20, 20], 0), ([0, 40, 100, 40], 1)]
    truth = {
        "images": [{"id": 7, "file_name": "a.png", "width": 100, "height": 80}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 7,
                "category_id": 3,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for i, (box, crowd) in enumerate(boxes)
        ],
    }
    found = [([0, 0, 20, 20], 0.7), ([10, 45, 20, 20], 0.9)]
    results = [{"image_id": 7, "category_id": 3, "bbox": box, "score": score} for box, score in found]
    for name, content in (("truth.json", truth), ("found.json", results)):
        (tmp_path / name).write_text(json.dumps(content))
    arguments = ["whose_map.py", str(tmp_path / "truth.json"), str(tmp_path / "found.json")]
    monkeypatch.setattr("sys.argv", arguments)
    script = load_script("whose_map")
    script.main()
    table = capsys.readouterr().out
    figures = {}
    for line in table.split("\n\n")[0].splitlines()[2:]:
        mean50, mean, package, call, _ = (cell.strip() for cell in line.strip("|").split("|"))
        figures[package.split()[0], call] = float(mean50), float(mean)
    # Half of the boxes are found without a false alarm: 51 of 101 recalls have a precision of 1.
    assert figures["GLARE", "`Matches.of(...).summary`"] == pytest.approx((100 * 51 / 101,) * 2, abs=1e-3)
    assert figures["pycocotools", "`COCOeval`"] == figures["GLARE", "`Matches.of(...).summary`"]
    # ultralytics knows no crowds: the one in it is a false alarm that comes first.
    assert figures["ultralytics", "`DetectionValidator, ap_per_class`"][0] < 30
    assert "not installed" in table

    (tmp_path / "found.json").write_text(json.dumps([{**results[0], "image_id": 8}]))
    with pytest.raises(SystemExit, match="image 8"):
        script.main()
