import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detection.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]


def test_as_a_module(tmp_path: Path) -> None:
    """Where the repository is not: what is installed is enough."""
    words = ["restore", "--enhancers", "raw", "--device", "cpu", "--out", "out"]
    subprocess.run(
        [sys.executable, "-m", "detection", *words],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    told = json.loads((tmp_path / "out" / "results.json").read_text())["command"]
    assert told == "python -m detection restore --enhancers raw --device cpu --out out"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_tells_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: python -m detection {command}")


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["enhance"])
    assert "invalid choice: 'enhance'" in capsys.readouterr().err


def test_mistakes_are_told_by_the_commands_name() -> None:
    with pytest.raises(SystemExit, match=r"detection bench: .*'magic'"):
        main(["bench", "--enhancers", "magic"])
