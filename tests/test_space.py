"""experiments/space/ says what Hugging Face's Spaces ask for, and agrees with the package."""

import re
import socket
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "experiments" / "space"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_front_matter() -> None:
    front = (SPACE / "README.md").read_text(encoding="utf-8").split("---\n")[1]
    values = dict(re.findall(r"^(\w+): \"?(.*?)\"?$", front, re.MULTILINE))
    assert values["sdk"] == "gradio"
    assert (SPACE / values["app_file"]).is_file()
    wanted = {one.name: one for one in map(Requirement, PROJECT["optional-dependencies"]["demo"])}
    assert values["sdk_version"] in wanted["gradio"].specifier
    assert values["python_version"] in Requirement("python" + PROJECT["requires-python"]).specifier


def test_what_it_installs() -> None:
    (wanted,) = map(Requirement, (SPACE / "requirements.txt").read_text(encoding="utf-8").splitlines())
    assert wanted.name == PROJECT["name"]
    assert wanted.extras <= PROJECT["optional-dependencies"].keys()


def test_it_lets_others_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Space is reached through its port 7860 from outside."""
    from detection import demo

    asked: list[tuple[str, int]] = []

    def listen(address: tuple[str, int], **how: object) -> socket.socket:
        asked.append(address)
        return create_server(("127.0.0.1", 0))

    create_server = socket.create_server
    monkeypatch.setattr(socket, "create_server", listen)
    monkeypatch.setattr(demo, "serve", lambda *arguments: None)
    with pytest.raises(SystemExit) as ended:
        exec(compile((SPACE / "app.py").read_text(encoding="utf-8"), "app.py", "exec"), {})
    assert ended.value.code == 0
    assert asked == [("0.0.0.0", 7860)]
