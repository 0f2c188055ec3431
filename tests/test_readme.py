"""README.md: short enough to be read, and true where it can be tried without a download."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_is_short() -> None:
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if link and not (ROOT / page).parent.joinpath(link).exists()]
    assert missing == []


def test_the_lines_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.search(r"## Use it from Python\n\n```python\n(.*?)```", README, re.DOTALL)
    assert lines is not None
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 24), (9, 8, 7)).save("night.jpg")
    exec(compile(lines[1], "README.md", "exec"), {})
    with Image.open("day.jpg") as day:
        assert day.size == (40, 24)
        assert np.mean(day) > 9


@pytest.mark.parametrize("name", ["setup", "main", "test"])
def test_commands_are_marked_for_ci(name: str) -> None:
    assert re.search(rf"<!-- ci: {name} -->\n```bash\n[^`]+\n```\n", README)


def _rows(table: str) -> list[list[str]]:
    """Return the cells of a table of docs/results.md, without intervals."""
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    lines = results.split(f"<!-- table: {table} -->\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.split(" [")[0].strip(" `*") for cell in line.strip("|").split("|")] for line in lines]


def test_the_figures_are_those_of_the_results() -> None:
    restoration = {method: cells for method, *cells in _rows("restoration")}
    detection = {(light, method): cells[0] for light, method, *cells in _rows("yolo26n")}
    lines = re.findall(r"^\| `.*", README, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        method, *figures = [cell.strip(" `*") for cell in line.strip("|").split("|")]
        found = restoration[method]
        expected = [
            *found[:3],
            *(detection[light, method] for light in ("mild", "dark", "extreme")),
            found[6],
        ]
        assert figures == expected
