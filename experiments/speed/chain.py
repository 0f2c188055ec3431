"""The enhancer in front of a detector, a YOLO26n of ultralytics, one photograph after the other."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from ultralytics.utils import NUM_THREADS

from detection import darken, sample_set
from detection.detectors.ultralytics import WEIGHTS, YOLO, built_in
from detection.hooks import put_in_front
from detection.timing import free_threads, threads
from glare import GLAREEnhance

SIZE = (640, 480)  # of the photograph, width and height


def chain(weights: str, device: str, runs: int, tick: Callable[[], Any] = lambda: None) -> pd.DataFrame:
    """Measure milliseconds of the enhancer per millisecond of the detector, both in one process.

    ``put_in_front`` gives the enhancer all cores; the other row has what ultralytics leaves it.

    Args:
        weights: of the enhancer.
        device: where both compute.
        runs: medians are of so many photographs, after one that does not count.
        tick: called after each.
    """
    photograph = Image.fromarray(darken(sample_set(), "dark").samples[3].load()).resize(SIZE)
    bgr = np.ascontiguousarray(np.asarray(photograph)[..., ::-1])
    yolo = YOLO(str(WEIGHTS / "yolo26n-exdark.yaml"), task="detect")
    yolo.model = built_in().network
    enhance = GLAREEnhance(weights, device=device)
    spent: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def timed(form: str, number: int) -> Callable[[Any], Any]:
        def call(image: Any) -> Any:
            with threads(number):
                start = time.perf_counter()
                result = enhance(image)
                spent[form]["enhancer"].append(1000 * (time.perf_counter() - start))
            return result

        return call

    forms = {"put_in_front": free_threads(NUM_THREADS), "threads that ultralytics leaves": NUM_THREADS}
    for _ in range(1 + runs):
        for form, number in forms.items():
            put_in_front(yolo, timed(form, number))  # type: ignore[arg-type]
            result: Any
            (result,) = yolo.predict(bgr, device=device, verbose=False)
            spent[form]["detector"].append(sum(result.speed.values()))
            tick()
    rows = []
    for form, number in forms.items():
        enhancer, detector = (statistics.median(spent[form][part][1:]) for part in ("enhancer", "detector"))
        row = {"form": form, "enhancer's threads": number, "enhancer, ms": enhancer, "detector, ms": detector}
        rows.append({**row, "enhancer per detector": enhancer / detector})
    return pd.DataFrame(rows)
