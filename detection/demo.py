"""``glare demo``: a page on this machine that shows what GLARE, and a detector, make of a photograph.

The page is Gradio's. Nothing of it comes from elsewhere or goes there: it is served by a server of our own, as
`gradio.Blocks.launch` counts its starts and goes through a proxy to reach itself.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image

from detection.data.builtin import sample_set
from detection.data.core import Detections, Pixels
from detection.data.darken import darken_image
from detection.detectors import detector
from detection.detectors.base import Detector
from detection.report.draw import DRAWN_SCORE, boxed
from detection.timing import Cost, timed
from glare.reading import open_image, read_image
from glare.transform import GLAREEnhance

# Gradio counts its uses on a server of its makers unless told otherwise before it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"glare demo needs {error.name}: pip install 'glare-torch[demo]'.", name=error.name
    ) from error

MAX_BYTES = 32 * 1024**2
"""The largest file that the page takes."""
MAX_PIXELS = 50_000_000
"""The largest photograph that is decoded: the largest telephones' have as many."""
LONGEST = 1024
"""The longer side, in pixels, to which larger photographs are reduced: a few seconds of one processor core."""
KEPT_SECONDS = 600
"""How long an uploaded file and the pictures made of it are kept."""

#: Out of scikit-image, free to pass on; each shows something that the built-in detector knows.
_EXAMPLES = ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png")
_LEVEL = "extreme"
_HEAD = """# See at night, and let detectors see
Drop a dark photograph, take one, or click an example; then drag the line across the picture. Files stay on the machine
that serves this page and are removed after ten minutes. The weights are for research and non-commercial use."""
_KNOB = "0: as GLARE knows daylight, 2: as the camera saw it"
_CSS = "#table :is(td, th) { padding: 0.4em 0.6em; overflow-wrap: normal; word-break: normal }"
_REDUCED = "\n\nOf {}×{} pixels, reduced to {}×{} for this page."


def read_photograph(path: str | Path) -> tuple[Pixels, tuple[int, int]]:
    """Read an uploaded file.

    Returns:
        (H, W, 3) uint8 RGB, upright, the longer side at most `LONGEST`; and the (width, height) that it had.

    Raises:
        ValueError: if it is no image, is damaged, or has more than `MAX_PIXELS`.
    """
    name = Path(path).name
    too_large = f"{name} is too large: this page takes {MAX_PIXELS / 1e6:.0f} megapixels at most."
    try:
        with open_image(path) as image:
            fits = image.width * image.height <= MAX_PIXELS
        if fits:
            photograph = PIL.Image.fromarray(read_image(path, upright=True))
    except FileNotFoundError as error:
        raise ValueError(
            f"{name} is no longer here: files are removed after a while. Drop it again."
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error.__cause__, PIL.Image.DecompressionBombError):
            raise ValueError(too_large) from error
        raise ValueError(f"{name} cannot be read: it is damaged, or is no image.") from error
    if not fits:
        raise ValueError(too_large)
    size = photograph.size
    photograph.thumbnail((LONGEST, LONGEST), PIL.Image.Resampling.LANCZOS)
    return np.asarray(photograph), size


def _table(rows: Sequence[tuple[str, Detections, Cost, str]], names: Sequence[str]) -> str:
    """Return Markdown: a line per picture with its boxes by class, the detector's time and the enhancer's."""
    lines = ["| | boxes | detector | GLARE |", "|---|---|--:|--:|"]
    for title, found, cost, enhanced in rows:
        counts = Counter(names[label] for label in found.labels[found.scores >= DRAWN_SCORE])
        boxes = ", ".join(f"{number} {name}" for name, number in counts.most_common()) or "none"
        lines.append(f"| {title} | {boxes} | {cost.ms:.0f} ms | {enhanced} |")
    return "\n".join(lines)


def write_examples(folder: Path) -> list[Path]:
    """Write the example photographs, darkened, as PNG files, and return their paths."""
    files = []
    for sample in sample_set().samples:
        if sample.name in _EXAMPLES:
            files.append(folder / sample.name)
            PIL.Image.fromarray(darken_image(sample.load(), sample.name, _LEVEL, seed=0)).save(files[-1])
    return files


def page(enhance: GLAREEnhance, find: Detector, examples: Sequence[Path]) -> gr.Blocks:
    """Return the page; its pictures are made one after the other, whoever asks for them.

    Args:
        enhance: the enhancer; its fidelity is set at each picture.
        find: the detector.
        examples: photographs to choose from.
    """

    def look(image: Pixels) -> tuple[Detections, Cost]:
        (found,), cost = timed(lambda: find([image]))
        return found, cost

    def show(
        upload: dict[str, Any] | None, fidelity: float
    ) -> tuple[tuple[PIL.Image.Image, PIL.Image.Image] | None, str]:
        if upload is None:
            return None, ""
        try:
            before, size = read_photograph(upload["path"])
            enhance.fidelity = float(fidelity)  # of a program it may be anything
            after, cost = timed(lambda: enhance(before))
        except ValueError as error:
            return None, f"**{error}**"
        (found, looked), (found_after, looked_after) = look(before), look(after)
        table = _table(
            [("before", found, looked, "–"), ("after", found_after, looked_after, f"{cost.ms:.0f} ms")],
            find.names,
        )
        if size != before.shape[1::-1]:
            table += _REDUCED.format(*size, *before.shape[1::-1])
        return (boxed(before, found, find.names), boxed(after, found_after, find.names)), table

    blocks = gr.Blocks(title="GLARE", delete_cache=(min(KEPT_SECONDS, 60), KEPT_SECONDS))
    with blocks:
        gr.Markdown(_HEAD)
        with gr.Row():
            with gr.Column(scale=2):
                photograph = gr.Image(
                    label="A dark photograph",
                    sources=["upload", "webcam"],
                    type="filepath",
                    elem_id="photograph",
                )
                knob = gr.Slider(0, 2, 1, step=0.1, label="Fidelity", info=_KNOB, elem_id="fidelity")
                chosen = gr.Examples([[str(file)] for file in examples], photograph, label="Or one of these")
            with gr.Column(scale=3):
                slider = gr.ImageSlider(
                    label="Before | after", format="png", interactive=False, elem_id="pictures"
                )
                table = gr.Markdown(elem_id="table")
        how: dict[str, Any] = {
            "fn": show,
            "inputs": [photograph, knob],
            "outputs": [slider, table],
            "trigger_mode": "always_last",  # of a moving knob the last position counts
            "concurrency_id": "networks",  # one after the other, as neither is for several threads
            "concurrency_limit": 1,
            "preprocess": False,  # Gradio would open the file itself, and could not say what is wrong with it
        }
        # A file from outside sends `change` twice.
        gr.on([photograph.input, photograph.clear, knob.input], api_name="show", **how)
        chosen.load_input_event.then(api_visibility="private", **how)
    return blocks


def served(blocks: gr.Blocks) -> FastAPI:
    """Return the page as an application for a server."""
    blocks.has_launched = True  # as `launch` sets it: from then on a file has to have been uploaded
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(),
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        max_file_size=MAX_BYTES,
        css=_CSS,
        theme=gr.themes.Default(font="system-ui", font_mono="ui-monospace"),  # no font is fetched
    )
    return app


def serve(weights: str, detector_name: str, listening: socket.socket, device: str) -> None:
    """Serve the page until the process is told to stop.

    Args:
        weights: whatever `GLAREEnhance` takes.
        detector_name: whatever `detection.detectors.detector` takes.
        listening: a socket that listens on an address and a port.
        device: where both compute.

    Raises:
        ValueError: if the weights or the detector are not what they should be.
    """
    with TemporaryDirectory(prefix="glare-demo-") as folder:
        # Uvicorn ends itself by the signal that it was sent; the folder is to be removed before.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        os.environ["GRADIO_TEMP_DIR"] = folder
        examples = Path(folder, "examples")
        examples.mkdir()
        enhance, find = GLAREEnhance(weights, device=device), detector(detector_name, device=device)
        blank = np.zeros((64, 64, 3), np.uint8)
        find([enhance(blank)])  # what is wrong with either is told now, and the first picture does not wait
        blocks = page(enhance, find, write_examples(examples))
        config = uvicorn.Config(served(blocks), log_level="warning", timeout_graceful_shutdown=1)
        host, port = listening.getsockname()[:2]
        at = f"[{host}]" if ":" in host else host
        print(f"GLARE is at http://{at}:{port}/ until you press Ctrl+C.", flush=True)
        server = uvicorn.Server(config)
        # Pages that are still open when the server is told to stop are cut off, which is no error to tell of.
        logging.getLogger("uvicorn.error").addFilter(lambda _: not server.should_exit)
        server.run(sockets=[listening])
