import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from detection import Dataset, Detections, Sample, darken, evaluate, sample_set
from detection.cache import Cache, write_png
from detection.data.core import Pixels, load_image
from detection.enhancers import Folder, raw
from detection.evaluate import collect
from detection.metrics.average_precision import Matches
from detection.metrics.image_quality import psnr
from detection.timing import timed
from glare.metrics import LPIPS


def sample(
    boxes: list[list[float]], labels: list[int], crowd: list[bool] | None = None, name: str = "x"
) -> Sample:
    return Sample(
        name,
        lambda: np.zeros((100, 100, 3), np.uint8),
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(crowd or [False] * len(labels)),
    )


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(
        np.array(boxes, dtype=np.float64).reshape(-1, 4), np.array(scores), np.array(labels, dtype=np.int64)
    )


BOX = [0.0, 0.0, 50.0, 50.0]


class Bright:
    """A detector that finds the bounding box of what is brighter than half."""

    names = ("sheep", "person")

    def __call__(self, images: Sequence[Pixels]) -> list[Detections]:
        return [self.detect(image) for image in images]

    def detect(self, image: Pixels) -> Detections:
        y, x = np.nonzero(image[..., 0] > 127)
        if not len(x):
            return found([], [], [])
        box = [float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)]
        return found([box, box], [0, 1], [0.9, 0.9])


def square(level: int) -> Pixels:
    image = np.zeros((100, 100, 3), np.uint8)
    image[20:60, 20:60] = level
    return image


def square_set() -> Dataset:
    people = np.array([10])
    boxes, crowd = np.array([[20.0, 20, 60, 60]]), np.array([False])
    return Dataset(
        (
            Sample("bright", lambda: square(200), boxes, people, crowd, "day", reference=lambda: square(220)),
            Sample("dim", lambda: square(100), boxes, people, crowd, "night", reference=lambda: square(220)),
        )
    )


class TestEvaluate:
    def test_rows(self) -> None:
        table = evaluate(
            square_set(),
            Bright(),
            {"raw": lambda image: image, "double": lambda image: np.minimum(image, 127) * 2},
        )
        assert list(table.columns[:7]) == ["light", "enhancer", "mAP50", "mAP50-95", "PSNR", "SSIM", "ms"]
        assert table[["light", "enhancer"]].to_numpy().tolist() == [
            ["day", "raw"],
            ["day", "double"],
            ["night", "raw"],
            ["night", "double"],
            ["all", "raw"],
            ["all", "double"],
        ]
        # The dim square is found once it is brightened.
        assert table["mAP50"].tolist() == pytest.approx([1, 1, 0, 1, 51 / 101, 1])
        assert table["images"].tolist() == table["boxes"].tolist() == [1, 1, 1, 1, 2, 2]
        of = {level: psnr(square(level), square(220)) for level in (200, 254, 100)}
        expected = [of[200], of[254], of[100], of[200], (of[200] + of[100]) / 2, (of[254] + of[200]) / 2]
        assert table["PSNR"].tolist() == pytest.approx(expected)
        assert (table["detector_ms"] > 0).all()

    def test_enhancers_do_not_see_each_other(self) -> None:
        def vandal(image: Pixels) -> Pixels:
            image[:] = 255
            return image

        table = evaluate(square_set(), Bright(), {"vandal": vandal, "raw": lambda image: image})
        assert table["mAP50"].tolist() == pytest.approx([0, 1, 0, 0, 0, 51 / 101])

    def test_all_enhancers_get_the_same_noise(self) -> None:
        seen: dict[str, list[bytes]] = {"a": [], "b": []}

        def keep(name: str) -> object:
            return lambda image: seen[name].append(image.tobytes()) or image

        clean = sample_set()
        cat = Dataset(clean.samples[3:4])
        evaluate(darken(cat, "dark", "extreme"), Bright(), {name: keep(name) for name in seen})
        assert len(set(seen["a"])) == 3  # the trial at the start, then two levels
        assert seen["a"] == seen["b"]

    def test_no_reference_no_psnr(self) -> None:
        data = Dataset((sample([BOX], [10]),))
        table = evaluate(data, Bright(), {"raw": lambda image: image})
        assert table[["PSNR", "SSIM"]].isna().all(axis=None)

    def test_unreadable_images_are_listed(self) -> None:
        def broken() -> Pixels:
            raise OSError("truncated")

        good = square_set().samples
        bad = Sample("bad", broken, good[0].boxes, good[0].labels, good[0].crowd)
        data = Dataset((bad, *good, bad), faults=("gone.png: missing",))
        table = evaluate(data, Bright(), {"raw": lambda image: image})
        assert table.attrs["faults"] == ["gone.png: missing", "bad: OSError: truncated"]
        assert table["images"].tolist() == [1, 1, 2]
        assert (table.attrs["used"], table.attrs["of"]) == (2, 4)
        with pytest.raises(ValueError, match=r"at least one readable image.*bad: OSError: truncated"):
            evaluate(Dataset((bad,)), Bright(), {"raw": lambda image: image})

    def test_detector_that_knows_no_class_of_the_set(self) -> None:
        class Blind(Bright):
            names = ("sheep",)

        with pytest.raises(ValueError, match=r"to know a class of the set .*People.* but it knows sheep"):
            evaluate(square_set(), Blind(), {"raw": lambda image: image})

    def test_wrong_enhancer(self) -> None:
        with pytest.raises(ValueError, match="enhancer `half` to return uint8"):
            evaluate(square_set(), Bright(), {"half": lambda image: image[::2]})

    def test_on_image(self) -> None:
        calls = []
        evaluate(
            square_set(),
            Bright(),
            {"raw": lambda image: image},
            on_image=lambda s, seen: calls.append((s.name, len(seen["raw"][1]))),
        )
        assert calls == [("bright", 1), ("dim", 0)]


def squares(*lights: str, places: Sequence[str] = ("",), count: int = 6) -> Dataset:
    """Photographs of a square, every other one too dim for `Bright`; all lights of one follow each other."""
    people = np.array([10])
    boxes, crowd = np.array([[20.0, 20, 60, 60]]), np.array([False])
    return Dataset(
        tuple(
            Sample(
                f"{i}.png",
                partial(square, 200 + i if i % 2 else 70 + i),
                boxes,
                people,
                crowd,
                light,
                place=places[i % len(places)],
                reference=partial(square, 220),
            )
            for i in range(count)
            for light in lights or ("day",)
        )
    )


def lift(image: Pixels) -> Pixels:
    """Bring every square above the half, each to its own brightness."""
    return np.where(image > 0, image // 2 + 96, 0).astype(np.uint8)


class TestGroups:
    def groups(self, data: Dataset) -> list[tuple[object, ...]]:
        table = evaluate(data, Bright(), {"raw": raw}, resamples=0)
        keys = [key for key in ("light", "place", "images") if key in table]
        return list(table[keys].itertuples(index=False, name=None))

    def test_one_light(self) -> None:
        assert self.groups(squares()) == [("day", 6)]

    def test_lights_and_all(self) -> None:
        assert self.groups(squares("day", "dusk")) == [("day", 6), ("dusk", 6), ("all", 12)]

    def test_places(self) -> None:
        found = self.groups(squares(places=("outdoor", "indoor", "")))
        assert found == [("day", "all", 6), ("day", "indoor", 2), ("day", "outdoor", 2)]
        found = self.groups(squares("day", "dusk", places=("outdoor", "indoor")))
        lights = [("day", "all", 6), ("dusk", "all", 6)]
        assert found == [*lights, ("all", "indoor", 6), ("all", "outdoor", 6), ("all", "all", 12)]

    def test_one_place_is_no_group(self) -> None:
        assert self.groups(squares(places=("indoor",))) == [("day", 6)]


class TestAgainstRaw:
    def test_columns(self) -> None:
        enhancers = {"raw": raw, "same": lambda image: image, "lift": lift, "black": np.zeros_like}
        table = evaluate(squares(count=10), Bright(), enhancers).set_index("enhancer")
        assert table["verdict"].to_dict() == {
            "raw": "",
            "same": "within noise",
            "lift": "better",
            "black": "worse",
        }
        assert np.isnan(table["dmAP50"]["raw"])
        assert table["dmAP50"]["lift"] == pytest.approx(table["mAP50"]["lift"] - table["mAP50"]["raw"])
        for name in ("dmAP50", "dmAP50-95"):
            assert 0 < table[f"{name}_low"]["lift"] < table[name]["lift"] < table[f"{name}_high"]["lift"]

    def test_without_raw_nothing_is_compared(self) -> None:
        table = evaluate(squares(), Bright(), {"lift": lift})
        assert table["verdict"].tolist() == [""]
        assert table["dmAP50"].isna().all()

    def test_figures_are_those_of_the_scores(self) -> None:
        data = squares("day", "dusk")
        results = collect(data, Bright(), {"raw": raw, "lift": lift})
        rows = results.table(resamples=0).set_index(["light", "enhancer"])
        records = [record for record in results.records if record.enhancer == "lift"]
        dusk = [record for record in records if data.samples[record.sample].light == "dusk"]
        truth = [data.samples[record.sample] for record in dusk]
        expected = Matches.of(truth, [record.found for record in dusk], 12).scores(data.classes)
        for name in ("VOC_AP50", "AR", "AP_medium", "AP50 People", "AP People"):
            assert rows[name]["dusk", "lift"] == pytest.approx(expected[name])
        assert rows["AP_small"].isna().all()
        assert rows["AP Cat"].isna().all()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries than glibc give back by themselves"
)
def test_memory_is_given_back_after_every_image() -> None:
    """In a process of its own, whose memory has no holes from before."""
    code = "from tests.detection import test_evaluate as t; print(t.given_back())"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert int(found.stdout.split()[-1]) > 100


def given_back() -> int:
    """MiB of memory by which a process shrinks after an image that left holes."""
    pins: list[Pixels] = []
    resident: list[int] = []

    def leaves_holes(image: Pixels) -> Pixels:
        if len(image) == 100 and not pins:
            holes = []
            for _ in range(200):
                holes.append(np.ones(2**20, np.uint8))
                pins.append(np.ones(2**16, np.uint8))
        return image

    def note(*_: object) -> None:
        status = Path("/proc/self/status").read_text()
        resident.append(int(status.split("VmRSS:")[1].split()[0]) // 1024)

    np.ones(2**25 - 2**16, np.uint8)  # freed, it has glibc keep blocks of up to its size
    evaluate(squares(count=2), Bright(), {"leaves_holes": leaves_holes}, on_image=note)
    return resident[0] - resident[1]


class TestFaults:
    def test_enhancer_that_fails_on_one_image(self) -> None:
        def choosy(image: Pixels) -> Pixels:
            if image.max() == 72:
                raise RuntimeError("does not like 72\nand more")
            return image

        table = evaluate(squares("day", "dusk"), Bright(), {"raw": raw, "choosy": choosy})
        assert table["images"].tolist() == [5, 5, 5, 5, 10, 10]  # in no row, so that they stay paired
        assert table.attrs["faults"] == [
            "2.png (day): enhancer `choosy`: RuntimeError: does not like 72",
            "2.png (dusk): enhancer `choosy`: RuntimeError: does not like 72",
        ]

    def test_detector_that_fails_on_one_image(self) -> None:
        class Choosy(Bright):
            def detect(self, image: Pixels) -> Detections:
                if image.max() == 72:
                    raise KeyError
                return super().detect(image)

        table = evaluate(squares(), {"a": Bright(), "b": Choosy()}, {"raw": raw, "lift": lift})
        assert table["images"].tolist() == [5] * 4
        assert table.attrs["faults"] == ["2.png (day): detector `b`: KeyError"]

    def test_image_too_small_for_ssim(self) -> None:
        good = squares().samples
        tiny = np.zeros((10, 40, 3), np.uint8)
        bad = replace(good[0], name="tiny.png", load=lambda: tiny, reference=lambda: tiny)
        table = evaluate(Dataset((good[0], bad, good[1])), Bright(), {"raw": raw})
        assert table["images"].tolist() == [2]
        (fault,) = table.attrs["faults"]
        assert fault.startswith("tiny.png (day): PSNR and SSIM: ")
        unpaired = replace(bad, reference=None)
        table = evaluate(Dataset((good[0], unpaired)), Bright(), {"raw": raw})
        assert table["images"].tolist() == [2]

    def test_an_enhancer_that_always_fails_is_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        def bad(image: Pixels) -> Pixels:
            return {}[1]  # type: ignore[no-any-return]

        def picky(image: Pixels) -> Pixels:
            return {100: image}[len(image)]  # as a network for one size

        def smaller(image: Pixels) -> Pixels:
            return image[::2]

        enhancers = {"raw": raw, "bad": bad, "picky": picky, "smaller": smaller}
        table = evaluate(squares(), Bright(), enhancers, progress=True)
        assert table["enhancer"].tolist() == ["raw", "picky"]
        assert table["images"].tolist() == [6, 6]
        first, second = table.attrs["faults"]
        assert first == "enhancer `bad` is left out, as it failed on all that it was tried on: KeyError: 1"
        assert second.startswith("enhancer `smaller` is left out")
        assert f"Fault: {first}" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"none\. enhancer `bad` is left out"):
            evaluate(squares(), Bright(), {"bad": bad})

    def test_missing_in_a_folder(self, tmp_path: Path) -> None:
        data = squares("day", "dusk")
        for sample in data.samples[:-2]:
            file = tmp_path / sample.light / sample.name
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(lift(sample.load())).save(file)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "dusk" / "0.png")
        table = evaluate(data, Bright(), {"raw": raw, "folder": Folder(tmp_path), "lift": lift})
        assert table["images"].tolist() == [5, 5, 5, 4, 4, 4, 9, 9, 9]
        missing = "5.png ({0}): enhancer `folder`: FileNotFoundError: expected one image of that name in "
        faults = table.attrs["faults"]
        assert "Expected enhancer `folder` to return uint8 (100, 100, 3) but got uint8 (9, 9, 3)" in faults[0]
        assert [fault.startswith(missing.format(light)) for fault in faults[1:] for light in ("day", "dusk")]
        rows = table.set_index(["light", "enhancer"])
        for name in ("mAP50", "PSNR", "SSIM"):
            assert rows[name]["day", "folder"] == rows[name]["day", "lift"] != rows[name]["day", "raw"]
        assert np.isnan(rows["ms"]["day", "folder"])  # nobody knows


class TestSeveralDetectors:
    def test_rows_of_each(self) -> None:
        class Blind(Bright):
            def detect(self, image: Pixels) -> Detections:
                return found([], [], [])

        calls = []
        table = evaluate(
            squares(),
            {"bright": Bright(), "blind": Blind()},
            {"raw": raw, "lift": lift},
            on_image=lambda sample, seen: calls.append(len(seen["lift"][1])),
        )
        assert table[["detector", "enhancer"]].to_numpy().tolist() == [
            ["bright", "raw"],
            ["bright", "lift"],
            ["blind", "raw"],
            ["blind", "lift"],
        ]
        assert table["mAP50"].tolist()[1:] == pytest.approx([1, 0, 0])
        assert calls == [1] * 6  # what the first one found
        assert table["PSNR"][0] == table["PSNR"][2]

    def test_images(self, tmp_path: Path) -> None:
        counted = Counted(lift, "d")
        results = collect(
            squares(places=("indoor",)), {"b": Bright()}, {"raw": raw, "d": counted}, cache=Cache(tmp_path)
        )
        images = results.images()
        assert len(images) == len(results.records) == 12
        assert images["name"].tolist() == [f"{i}.png" for i in range(6) for _ in range(2)]
        assert images["AP50"].tolist() == pytest.approx([0, 1, 1, 1] * 3)
        assert set(images["place"]) == {"indoor"}
        for row, record in zip(images.to_dict("records"), results.records, strict=True):
            assert (row["enhancer"], row["detector"], row["PSNR"]) == (record.enhancer, "b", record.psnr)
            if row["enhancer"] == "d":
                kept = load_image(row["file"])
                assert np.array_equal(kept, lift(results.dataset.samples[row["sample"]].load()))
            else:
                assert row["file"] is None


def test_precision_over_recall() -> None:
    results = collect(squares(), {"b": Bright()}, {"raw": raw, "lift": lift})
    curves, table = results.precision_recall(), results.table()
    assert list(curves) == ["detector", "enhancer", "recall", "precision"]
    assert len(curves) == 2 * 101
    means = curves.groupby("enhancer")["precision"].mean()
    for row in table.to_dict("records"):
        assert means[row["enhancer"]] == pytest.approx(row["mAP50"])


def test_fingerprint_of_the_images() -> None:
    def of(data: Dataset) -> str:
        return collect(data, Bright(), {"raw": raw}).fingerprint

    data = squares()
    first = data.samples[0]
    assert of(data) == of(squares())
    others = (
        replace(first, load=lambda: np.zeros((100, 100, 3), np.uint8)),
        replace(first, boxes=first.boxes + 1),
        replace(first, name="other"),
    )
    assert len({of(replace(data, samples=(other, *data.samples[1:]))) for other in others} | {of(data)}) == 4


class Counted:
    """A callable that counts its calls on whole images, and has an identity."""

    def __init__(self, call: Callable[[Any], Any], identity: str) -> None:
        self.call, self.identity, self.calls = call, identity, 0

    def __call__(self, given: Any) -> Any:
        self.calls += np.shape(given)[:1] == (100,)
        return self.call(given)


class Found(Bright):
    """`Bright`, which counts its calls and has an identity."""

    def __init__(self, identity: str = "bright") -> None:
        self.identity, self.calls = identity, 0

    def detect(self, image: Pixels) -> Detections:
        self.calls += 1
        return super().detect(image)


class TestCache:
    def test_a_run_that_was_killed_goes_on(self, tmp_path: Path) -> None:
        def run(stop: int) -> tuple[pd.DataFrame | None, int, int]:
            seen: list[str] = []

            def on_image(sample: Sample, _: object) -> None:
                seen.append(sample.name)
                if len(seen) == stop:
                    raise KeyboardInterrupt

            enhance, detect = Counted(lift, "d"), Found()
            table = None
            with suppress(KeyboardInterrupt):
                table = evaluate(
                    squares("day", "dusk"),
                    detect,
                    {"raw": raw, "d": enhance},
                    cache=Cache(tmp_path),
                    on_image=on_image,
                )
            return table, enhance.calls, detect.calls

        nothing, *killed = run(5)
        assert nothing is None
        assert killed == [3, 6 + 1]  # the lights of a photograph look alike here; a detector warms up
        first, *rest = run(0)
        assert rest == [3, 6 + 1]
        again, *none = run(0)
        assert none == [0, 0]
        pd.testing.assert_frame_equal(again, first)  # with the times

    def test_second_detector_takes_the_images(self, tmp_path: Path) -> None:
        for detect in (Found("one"), Found("two")):
            enhance = Counted(lift, "d")
            evaluate(squares(), detect, {"d": enhance}, cache=Cache(tmp_path))
            assert detect.calls == 7
        assert enhance.calls == 0

    def test_another_identity_is_made_anew(self, tmp_path: Path) -> None:
        evaluate(squares(), Found(), {"d": Counted(lift, "old weights")}, cache=Cache(tmp_path))
        new, detect = Counted(np.zeros_like, "new weights"), Found()
        table = evaluate(squares(), detect, {"d": new}, cache=Cache(tmp_path))
        assert (new.calls, table["mAP50"].tolist()) == (6, [0])
        assert detect.calls == 2  # of six black images that look alike

    def test_what_was_made_of_an_image_with_a_fault_is_kept(self, tmp_path: Path) -> None:
        class Choosy(Found):
            def detect(self, image: Pixels) -> Detections:
                if self.calls == 6:  # at the last image, as the first one warms up
                    raise KeyError
                return super().detect(image)

        enhance = Counted(lift, "d")
        for identity in ("one", "two"):
            table = evaluate(squares(), Choosy(identity), {"d": enhance}, cache=Cache(tmp_path))
            assert table.attrs["faults"] == ["5.png (day): detector: KeyError"]
        assert enhance.calls == 6

    def test_two_names_for_one_enhancer(self, tmp_path: Path) -> None:
        enhance = Counted(lift, "d")
        table = evaluate(squares(), Found(), {"d": enhance, "also": enhance}, cache=Cache(tmp_path))
        assert (enhance.calls, table["images"].tolist()) == (6, [6, 6])

    def test_a_detector_that_draws_into_its_input(self, tmp_path: Path) -> None:
        class Drawing(Found):
            def detect(self, image: Pixels) -> Detections:
                result = super().detect(image)
                image[:] = 255
                return result

        for detector in (Drawing("draws"), Found()):
            table = evaluate(squares(), detector, {"d": Counted(lift, "d")}, cache=Cache(tmp_path))
            assert table["mAP50"].tolist() == [1.0]

    def test_what_cannot_be_kept_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "enhanced").write_text("in the way of a folder")
        with pytest.raises(ValueError, match=r"0\.png \(day\): cache: (NotADirectory|FileExists)Error"):
            evaluate(squares(), Found(), {"d": Counted(lift, "d")}, cache=Cache(tmp_path))

    def test_without_identity_nothing_is_kept(self, tmp_path: Path) -> None:
        evaluate(squares(), Bright(), {"raw": raw, "lift": lift}, cache=Cache(tmp_path))
        assert list(tmp_path.iterdir()) == []


class Watched:
    """An enhancer that takes 20 ms, and whether what is noted went on meanwhile."""

    def __init__(self) -> None:
        self.timed = False
        self.disturbed: list[bool] = []

    def __call__(self, image: Pixels) -> Pixels:
        self.timed = True
        sleep(0.02)
        self.timed = False
        return image

    def note(self) -> None:
        self.disturbed.append(self.timed)


class TestPrice:
    def test_time_is_of_the_part(self) -> None:
        class Slow(Bright):
            def detect(self, image: Pixels) -> Detections:
                sleep(0.02)
                return super().detect(image)

        def slow(image: Pixels) -> Pixels:
            sleep(0.05)
            return image

        table = evaluate(squares(count=2), Slow(), {"raw": raw, "slow": slow}).set_index("enhancer")
        assert table["ms"]["raw"] == 0
        assert 50 <= table["ms"]["slow"] < 90
        assert (table["detector_ms"] >= 20).all()

    def test_nothing_is_loaded_or_written_while_a_call_is_timed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        watched = Watched()

        def load(sample: Sample) -> Pixels:
            watched.note()
            return sample.load()

        def write(*given: Any) -> None:
            watched.note()
            write_png(*given)

        monkeypatch.setattr("detection.stream.write_png", write)
        data = squares(count=4)
        samples = [replace(sample, load=partial(load, sample)) for sample in data.samples]
        enhancers = {"raw": raw, "a": Counted(watched, "a"), "b": Counted(watched, "b")}
        evaluate(replace(data, samples=tuple(samples)), Bright(), enhancers, cache=Cache(tmp_path))
        assert watched.disturbed == [False] * (4 + 2 * 4)

    def test_nor_after_a_measure_that_failed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Images too small for SSIM; and the writing of a file takes longer than the enhancing of the next."""
        watched = Watched()

        def write(*_: Any) -> None:
            for _ in range(5):
                watched.note()
                sleep(0.01)

        monkeypatch.setattr("detection.stream.write_png", write)
        small = [
            replace(
                sample, load=lambda i=i: square(i)[18:26, 18:26], reference=lambda: square(9)[18:26, 18:26]
            )
            for i, sample in enumerate(squares(count=4).samples)
        ]
        enhancers = {"slow": Counted(watched, "slow")}
        with pytest.raises(ValueError, match="PSNR and SSIM"):
            evaluate(replace(squares(), samples=tuple(small)), Bright(), enhancers, cache=Cache(tmp_path))
        assert watched.disturbed == [False] * 4 * 5

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
    def test_memory_is_the_highest_of_the_call(self) -> None:
        _, before = timed(lambda: None)
        kept, most = timed(lambda: np.ones(100_000_000, np.uint8)[:9].copy())
        _, after = timed(lambda: None)
        assert len(kept) == 9
        assert 90 < most.mb - before.mb < 130
        assert after.mb - before.mb < 30

    @pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
    def test_memory_does_not_grow_with_the_images(self) -> None:
        noise = np.random.default_rng(0)
        peaks: list[float] = []

        def load() -> Pixels:
            return noise.integers(0, 256, (600, 800, 3), dtype=np.uint8)

        template = squares().samples[0]
        many = [replace(template, name=str(i), load=load, reference=None) for i in range(40)]
        evaluate(
            Dataset(tuple(many)),
            Bright(),
            {"raw": raw, "negative": lambda image: 255 - image},
            on_image=lambda *_: peaks.append(timed(lambda: None)[1].mb),
            resamples=0,
        )
        assert max(peaks[20:]) < max(peaks[:20]) + 10  # twenty more images are 60 MB with their enhanced ones


def test_lpips_is_a_column_where_it_is_asked_for() -> None:
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.pth"
        torch.save(network.state_dict(), file)
        measure = LPIPS(file)
    plain = evaluate(squares(), Bright(), {"raw": raw, "lift": lift})
    table = evaluate(squares(), Bright(), {"raw": raw, "lift": lift}, lpips=measure)
    assert "LPIPS" not in plain
    assert list(table.columns[:7]) == ["light", "enhancer", "mAP50", "mAP50-95", "PSNR", "SSIM", "LPIPS"]
    image, clean = (torch.tensor(square(level)).permute(2, 0, 1)[None] / 255 for level in (201, 220))
    alone = evaluate(Dataset(squares().samples[1:2]), Bright(), {"raw": raw}, lpips=measure)
    assert alone["LPIPS"].tolist() == pytest.approx([float(measure(image, clean))])
