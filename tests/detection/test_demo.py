"""The page of ``glare demo``: as a browser shows it, as its users share it, and what it makes of faults."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image, ImageColor

from detection import Detections, sample_set
from detection.data.classes import EXDARK_CLASSES
from detection.data.core import Pixels
from detection.report.draw import _COLOURS
from glare import GLAREEnhance
from glare.cli import main
from tests.browser import chromium

pytest.importorskip("gradio", reason="gradio, of the extra demo, is not installed")
import httpx
import uvicorn

from detection import demo

T = TypeVar("T")
PERSON = _COLOURS[EXDARK_CLASSES.index("People")]


def wait(until: Callable[[], T], seconds: float = 60) -> T:
    """What ``until`` returns, once that is something."""
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.1)
    return found


def night(path: Path, colour: tuple[int, int, int] = (9, 8, 7)) -> Path:
    Image.new("RGB", (48, 32), colour).save(path)
    return path


class TestReading:
    def test_as_it_is(self, tmp_path: Path) -> None:
        pixels, size = demo.read_photograph(night(tmp_path / "a.png"))
        assert pixels.shape == (32, 48, 3)
        assert size == (48, 32)
        assert (pixels == (9, 8, 7)).all()

    def test_large_and_turned(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (2 * demo.LONGEST, demo.LONGEST)).save(tmp_path / "a.jpg", exif=exif)
        pixels, size = demo.read_photograph(tmp_path / "a.jpg")
        assert pixels.shape == (demo.LONGEST, demo.LONGEST // 2, 3)
        assert size == (demo.LONGEST, 2 * demo.LONGEST)

    def test_text(self, tmp_path: Path) -> None:
        (tmp_path / "notes.jpg").write_text("no picture")
        with pytest.raises(ValueError, match=r"^notes\.jpg cannot be read: it is damaged, or is no image\.$"):
            demo.read_photograph(tmp_path / "notes.jpg")

    def test_cut_off(self, tmp_path: Path) -> None:
        Image.effect_noise((200, 200), 60).save(tmp_path / "a.png")
        whole = (tmp_path / "a.png").read_bytes()
        (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"a\.png cannot be read"):
            demo.read_photograph(tmp_path / "a.png")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize("side", [10_000, 20_000])  # Pillow itself refuses the larger
    def test_megapixels(self, tmp_path: Path, side: int) -> None:
        Image.new("1", (side, side)).save(tmp_path / "wall.png")  # a small file
        with pytest.raises(
            ValueError, match=r"^wall\.png is too large: this page takes 50 megapixels at most\.$"
        ):
            demo.read_photograph(tmp_path / "wall.png")

    def test_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"a\.png is no longer here"):
            demo.read_photograph(tmp_path / "a.png")


class TestCommand:
    def test_port_is_taken(self, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            assert main(["demo", "--port", str(port)]) == 1
        told = f"glare demo: port {port} of 127.0.0.1 is taken: choose another one with --port.\n"
        assert capsys.readouterr().err == told

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--port", "70000"], "in [0, 65535] but got 70000"),
            (["--host", "192.0.2.1"], "cannot listen on port 7860 of 192.0.2.1"),
        ],
    )
    def test_nowhere_to_listen(
        self, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["demo", *arguments]) == 1
        assert told in capsys.readouterr().err

    def test_without_gradio(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "gradio", None)
        monkeypatch.delitem(sys.modules, "detection.demo")
        assert main(["demo"]) == 1
        told = "glare demo: glare demo needs gradio: pip install 'glare-torch[demo]'.\n"
        assert capsys.readouterr().err.endswith(told)


# Runs the command, and stops whatever it would reach outside of this machine.
OFFLINE = """
import sys
def cut(event, arguments):
    where = {"socket.getaddrinfo": 0, "socket.connect": 1}.get(event)
    if where is not None:
        host = arguments[where][0] if where else arguments[0]
        if host not in ("127.0.0.1", "localhost", None):
            print("REACHED FOR", host, file=sys.stderr, flush=True)
            raise OSError("the network is cut off")
sys.addaudithook(cut)
from glare.cli import main
sys.exit(main(["demo", "--port", "0"]))
"""


# A browser that resolves no name and writes down what it asks for.
FLAGS = ("--window-size=1200,1000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def find(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def drop(self, file: Path) -> None:
        """Upload a file."""
        wait(lambda: self.find("#photograph input[type=file]"))[0].send_keys(str(file))

    def pictures(self) -> list[str]:
        """The addresses of the picture before and the one after; empty while they are made."""
        shown = [image.get_attribute("src") for image in self.find("#pictures .slider-wrap img")]
        return shown if len(shown) == 2 and not self.find("#pictures .generating") else []

    def rows(self) -> list[str]:
        return [row.text for row in self.find("#table tbody tr")]

    def next_pictures(self, than: list[str]) -> list[Pixels]:
        """The pictures that come after others."""

        def settled() -> list[str]:
            shown = self.pictures()
            time.sleep(0.5)  # one of the pair may come before the other
            return shown if shown[1:] != than[1:] and shown == self.pictures() else []

        fresh = wait(settled)
        return [np.asarray(Image.open(BytesIO(httpx.get(url).content)).convert("RGB")) for url in fresh]

    def seen(self, share: float) -> float:
        """How bright the shown pair is at a share of its width."""
        (box,) = self.find("#pictures .slider-wrap")
        picture = np.asarray(Image.open(BytesIO(box.screenshot_as_png)).convert("L"))
        at = int(share * picture.shape[1])
        return float(picture[picture.shape[0] // 4, at - 10 : at + 10].mean())

    def waits_for(self, told: str) -> None:
        wait(lambda: [one for one in self.find("#table") if told in one.text])


def test_in_a_browser_without_network(tmp_path: Path) -> None:
    """One test, as the browser and the server are slow to start."""
    temporary, log = tmp_path / "tmp", tmp_path / "log"
    temporary.mkdir()
    with chromium(*FLAGS, logs=("browser", "performance")) as browser, log.open("w") as errors:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        server = subprocess.Popen(
            [sys.executable, "-c", OFFLINE], stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
        try:
            assert server.stdout is not None
            url = re.search(r"http://127\.0\.0\.1:\d+/", server.stdout.readline())
            assert url is not None, log.read_text()
            assert list(temporary.glob("glare-demo-*/*"))
            browser.get(url[0])
            _use(Page(browser), tmp_path)
            requests = _requests(browser)
            assert len(requests) > 10
            assert [one for one in requests if not one.startswith((url[0], "blob:", "data:"))] == []
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    assert "REACHED FOR" not in log.read_text()
    assert "Traceback" not in log.read_text()
    assert not list(temporary.glob("glare-demo-*"))


def _use(page: Page, folder: Path) -> None:
    from selenium.webdriver import ActionChains, Keys

    # An example, at a click.
    wait(lambda: len(page.find("button.gallery-item")) == 4)
    page.find("button.gallery-item")[1].click()
    before, after = page.next_pictures([])
    assert before.shape == after.shape == (300, 451, 3)
    assert before.mean() < 20 < 60 < after.mean()

    # A photograph of one's own, with boxes on both sides.
    photograph = Image.fromarray(sample_set().samples[2].load()[:256, 100:356])
    photograph.point(lambda value: value // 4).save(folder / "mine.png")
    shown = page.pictures()
    page.drop(folder / "mine.png")
    pictures = page.next_pictures(shown)
    assert [picture.shape for picture in pictures] == [(256, 256, 3)] * 2
    wait(lambda: len(page.rows()) == 2 and "Cat" not in "".join(page.rows()))
    for row, picture in zip(page.rows(), pictures, strict=True):
        assert re.search(r"1 People \d+ ms", row)
        drawn = (picture == ImageColor.getrgb(PERSON)).all(axis=-1)
        assert drawn.sum() > 200

    # The slider.
    wait(lambda: page.seen(0.3) + 30 < page.seen(0.7))
    (handle,) = page.find("#pictures [data-testid=slider] .icon-wrap")
    width = page.find("#pictures .slider-wrap")[0].size["width"]
    ActionChains(page.browser).click_and_hold(handle).move_by_offset(int(0.35 * width), 0).release().perform()
    wait(lambda: page.seen(0.7) < page.seen(0.95) - 30)

    # The knob.
    shown = page.pictures()
    page.find("#fidelity input[type=range]")[0].send_keys(Keys.HOME)
    without = page.next_pictures(shown)
    assert (without[0] == pictures[0]).all()
    assert (without[1] != pictures[1]).any()

    # Faults, after each of which the page goes on.
    (folder / "notes.jpg").write_text("no picture")
    page.drop(folder / "notes.jpg")
    page.waits_for("notes.jpg cannot be read: it is damaged, or is no image.")
    Image.new("1", (10_000, 10_000)).save(folder / "wall.png")
    page.drop(folder / "wall.png")
    page.waits_for("wall.png is too large: this page takes 50 megapixels at most.")
    with (folder / "heavy.png").open("wb") as file:
        file.truncate(demo.MAX_BYTES + 1)
    page.drop(folder / "heavy.png")
    wait(lambda: "exceed" in page.find("[data-testid=toast-body]")[0].text.lower())
    shown = page.pictures()
    night(folder / "small.png")
    page.drop(folder / "small.png")
    assert page.next_pictures(shown)[0].shape == (32, 48, 3)


def _requests(browser: Any) -> list[str]:
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    return [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]


class OneAtATime:
    """Finds the box in the middle of every image, and refuses to be called twice at once."""

    names = ("cat", "dog")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first_takes = 0.0

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        assert self._lock.acquire(blocking=False), "called while at work"
        time.sleep(self.first_takes)
        self.first_takes = 0.0
        found = []
        for image in images:
            height, width, _ = image.shape
            box = np.array([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
            found.append(Detections(box, np.array([0.9]), np.array([0])))
        self._lock.release()
        return found


class Visitor:
    """What a page in a browser sends, without the browser."""

    def __init__(self, url: str) -> None:
        self._api = httpx.Client(base_url=f"{url}gradio_api", timeout=120)

    def upload(self, file: Path) -> httpx.Response:
        return self._api.post("/upload", files={"files": (file.name, file.read_bytes())})

    def show(self, path: str, fidelity: Any = 1.0) -> tuple[str, Any]:
        """The kind of the answer, ``complete`` or ``error``, and its content."""
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        call = self._api.post("/call/show", json={"data": [image, fidelity]}).json()["event_id"]
        lines = self._api.get(f"/call/show/{call}").text.splitlines()
        return lines[-3].removeprefix("event: "), json.loads(lines[-2].removeprefix("data: "))


@contextmanager
def running(folder: Path, examples: Sequence[Path] = (), first_takes: float = 0.0) -> Iterator[str]:
    """The address of the page, in this process, and a detector whose first call takes some seconds."""
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listening:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        find = OneAtATime()
        find.first_takes = first_takes
        app = demo.served(demo.page(GLAREEnhance(), find, examples))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


class TestUsers:
    def test_two_at_once_both_get_their_picture(self, tmp_path: Path) -> None:
        colours = [(30, 5, 5), (5, 5, 30)]
        answers: dict[int, tuple[str, Any]] = {}
        # Long enough for the other to come meanwhile.
        with running(tmp_path / "kept", first_takes=2) as url:

            def visit(number: int) -> None:
                visitor = Visitor(url)
                (path,) = visitor.upload(night(tmp_path / f"{number}.png", colours[number])).json()
                answers[number] = visitor.show(path)

            threads = [threading.Thread(target=visit, args=(number,)) for number in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for number, colour in enumerate(colours):
                kind, (pictures, table) = answers[number]
                assert kind == "complete"
                before, after = (np.asarray(Image.open(picture["path"])) for picture in pictures)
                assert tuple(before[0, 0]) == colour
                expected = GLAREEnhance()(np.full((32, 48, 3), colour, np.uint8))
                assert (after[0, 0] == expected[0, 0]).all()
                assert table.count("1 cat") == 2

    def test_files_are_removed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "KEPT_SECONDS", 1)
        folder = tmp_path / "kept"
        folder.mkdir()
        example = night(folder / "example.png")
        with running(folder, [example]) as url:
            visitor = Visitor(url)
            (path,) = visitor.upload(night(tmp_path / "mine.png")).json()
            kind, (pictures, _) = visitor.show(path)
            assert kind == "complete"
            made = [Path(picture["path"]) for picture in pictures]
            wait(lambda: not any(file.exists() for file in [Path(path), *made]))
            told = "**mine.png is no longer here: files are removed after a while. Drop it again.**"
            assert visitor.show(path) == ("complete", [None, told])
            assert example.exists()
            assert visitor.show(str(example))[0] == "complete"

    def test_a_file_that_is_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "MAX_BYTES", 1000)
        (tmp_path / "a.png").write_bytes(bytes(1001))
        with running(tmp_path / "kept") as url:
            answer = Visitor(url).upload(tmp_path / "a.png")
            assert answer.status_code == 413
            assert "1000 bytes" in answer.text
        assert not [file for file in (tmp_path / "kept").rglob("*") if file.is_file()]

    @pytest.mark.parametrize(
        ("fidelity", "told"), [(5, "[0, 2] but got 5"), ("nan", "[0, 2] but got nan"), ("much", "'much'")]
    )
    def test_a_fidelity_that_the_knob_does_not_have(self, fidelity: Any, told: str, tmp_path: Path) -> None:
        with running(tmp_path / "kept") as url:
            visitor = Visitor(url)
            (path,) = visitor.upload(night(tmp_path / "mine.png")).json()
            kind, (pictures, line) = visitor.show(path, fidelity)
        assert (kind, pictures) == ("complete", None)
        assert told in line

    def test_a_file_that_was_not_uploaded(self, tmp_path: Path) -> None:
        secret = night(tmp_path / "secret.png")
        with running(tmp_path / "kept") as url:
            kind, content = Visitor(url).show(str(secret))
        assert kind == "error"
        assert "was not uploaded" in content["error"]
        assert not list((tmp_path / "kept").rglob("secret.png"))
