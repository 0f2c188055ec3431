"""Weights on the Hugging Face Hub: the real client, and a server that speaks the little of it that is needed."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from glare import weights
from glare.model import GLARE


class Hub(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            repo = json.loads(body)
            self.answer({"url": f"{self.server.url}/{repo['organization']}/{repo['name']}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(body)["files"]]
            self.answer(
                {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
            )
        elif self.path.endswith("/commit/main"):
            repo_id = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for entry in map(json.loads, body.splitlines()):
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[f"/{repo_id}/resolve/main/{entry['value']['path']}"] = content
            self.answer({"commitUrl": f"{self.server.url}/{repo_id}/commit/1", "commitOid": "1" * 40})
        else:
            self.send_error(404)

    def do_GET(self) -> None:
        self.send_file(with_content=True)

    def do_HEAD(self) -> None:
        self.send_file(with_content=False)

    def send_file(self, with_content: bool) -> None:
        content = self.server.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "1" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def answer(self, values: object) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run(code: str, hub: Hub, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the client reads its settings once, when it is imported."""
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(cache),
        "HF_TOKEN": "hf_ours",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **settings, "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
    )


LOAD = (
    "import sys; from glare import GLARE, weights; weights.save(GLARE.from_pretrained('we/toy'), sys.argv[1])"
)


def test_there_and_back(hub: Hub, model: GLARE, tmp_path: Path) -> None:
    weights.save(model, tmp_path / "toy")
    (tmp_path / "toy/README.md").write_text("the card")
    (tmp_path / "toy/notes.txt").write_text("not for others")
    push = "import sys; from glare import weights; print(weights.push_to_hub(sys.argv[1], 'we/toy'))"
    pushed = run(push, hub, tmp_path / "a", str(tmp_path / "toy"))
    assert pushed.stdout.strip() == f"{hub.url}/we/toy/commit/1", pushed.stderr
    names = {"/we/toy/resolve/main/model.safetensors", "/we/toy/resolve/main/README.md"}
    assert set(hub.files) == names

    loaded = run(LOAD, hub, tmp_path / "b", str(tmp_path / "again"))
    assert loaded.returncode == 0, loaded.stderr
    there, back = (weights.load(tmp_path / name).state_dict() for name in ("toy", "again"))
    assert all(torch.equal(there[key], back[key]) for key in there)


def test_truncated_on_the_way_is_named_with_its_hash(hub: Hub, model: GLARE, tmp_path: Path) -> None:
    content = weights.save(model, tmp_path).read_bytes()[:-100]
    hub.files["/we/toy/resolve/main/model.safetensors"] = content
    told = run(LOAD, hub, tmp_path / "cache", str(tmp_path / "again")).stderr
    assert f"(sha256 {hashlib.sha256(content).hexdigest()}) is truncated" in told


def test_nothing_of_that_name(hub: Hub, tmp_path: Path) -> None:
    told = run(LOAD, hub, tmp_path / "cache", str(tmp_path / "again")).stderr
    assert "FileNotFoundError: No weights at 'we/toy'" in told
    assert "as a Hugging Face Hub id it could not be fetched" in told
