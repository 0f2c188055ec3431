import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from detection import Dataset, Detections, Sample, darken, enhancer, evaluate, read_test_sets, sample_set
from detection.cache import Cache
from detection.data.core import Pixels, load_image
from detection.enhancers import Folder, raw
from detection.metrics.image_quality import lpips as lpips_metric
from detection.metrics.image_quality import psnr
from detection.runner import collect
from glare.metrics import LPIPS
from tests.detection.squares import BOX, Bright, Counted, found, lift, sample, square, squares


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
            {"raw": lambda image: image, "double": lambda image: np.minimum(image, 127) * 2},
            Bright(),
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

        table = evaluate(square_set(), {"vandal": vandal, "raw": lambda image: image}, Bright())
        assert table["mAP50"].tolist() == pytest.approx([0, 1, 0, 0, 0, 51 / 101])

    def test_all_enhancers_get_the_same_noise(self) -> None:
        seen: dict[str, list[bytes]] = {"a": [], "b": []}

        def keep(name: str) -> object:
            return lambda image: seen[name].append(image.tobytes()) or image

        clean = sample_set()
        cat = Dataset(clean.samples[3:4])
        evaluate(darken(cat, "dark", "extreme"), {name: keep(name) for name in seen}, Bright())
        assert len(set(seen["a"])) == 3  # the trial at the start, then two levels
        assert seen["a"] == seen["b"]

    def test_no_reference_no_psnr(self) -> None:
        data = Dataset((sample([BOX], [10]),))
        table = evaluate(data, {"raw": lambda image: image}, Bright())
        assert table[["PSNR", "SSIM"]].isna().all(axis=None)

    def test_unreadable_images_are_listed(self) -> None:
        def broken() -> Pixels:
            raise OSError("truncated")

        good = square_set().samples
        bad = Sample("bad", broken, good[0].boxes, good[0].labels, good[0].crowd)
        data = Dataset((bad, *good, bad), faults=("gone.png: missing",))
        table = evaluate(data, {"raw": lambda image: image}, Bright())
        assert table.attrs["faults"] == ["gone.png: missing", "bad: OSError: truncated"]
        assert table["images"].tolist() == [1, 1, 2]
        assert (table.attrs["used"], table.attrs["of"]) == (2, 4)
        with pytest.raises(ValueError, match=r"at least one readable image.*bad: OSError: truncated"):
            evaluate(Dataset((bad,)), {"raw": lambda image: image}, Bright())

    def test_detector_that_knows_no_class_of_the_set(self) -> None:
        class Blind(Bright):
            names = ("sheep",)

        with pytest.raises(ValueError, match=r"to know a class of the set .*People.* but it knows sheep"):
            evaluate(square_set(), {"raw": lambda image: image}, Blind())

    def test_wrong_enhancer(self) -> None:
        with pytest.raises(ValueError, match="enhancer `half` to return uint8"):
            evaluate(square_set(), {"half": lambda image: image[::2]}, Bright())

    def test_on_image(self) -> None:
        calls = []
        evaluate(
            square_set(),
            {"raw": lambda image: image},
            Bright(),
            on_image=lambda s, seen: calls.append((s.name, len(seen["raw"][1]))),
        )
        assert calls == [("bright", 1), ("dim", 0)]


class TestFaults:
    def test_enhancer_that_fails_on_one_image(self) -> None:
        def choosy(image: Pixels) -> Pixels:
            if image.max() == 72:
                raise RuntimeError("does not like 72\nand more")
            return image

        table = evaluate(squares("day", "dusk"), {"raw": raw, "choosy": choosy}, Bright())
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

        table = evaluate(squares(), {"raw": raw, "lift": lift}, {"a": Bright(), "b": Choosy()})
        assert table["images"].tolist() == [5] * 4
        assert table.attrs["faults"] == ["2.png (day): detector `b`: KeyError"]

    def test_image_too_small_for_ssim(self) -> None:
        good = squares().samples
        tiny = np.zeros((10, 40, 3), np.uint8)
        bad = replace(good[0], name="tiny.png", load=lambda: tiny, reference=lambda: tiny)
        table = evaluate(Dataset((good[0], bad, good[1])), {"raw": raw}, Bright())
        assert table["images"].tolist() == [2]
        (fault,) = table.attrs["faults"]
        assert fault.startswith("tiny.png (day): SSIM: ")
        unpaired = replace(bad, reference=None)
        table = evaluate(Dataset((good[0], unpaired)), {"raw": raw}, Bright())
        assert table["images"].tolist() == [2]

    def test_an_enhancer_that_always_fails_is_left_out(self, capsys: pytest.CaptureFixture[str]) -> None:
        def bad(image: Pixels) -> Pixels:
            return {}[1]  # type: ignore[no-any-return]

        def picky(image: Pixels) -> Pixels:
            return {100: image}[len(image)]  # as a network for one size

        def smaller(image: Pixels) -> Pixels:
            return image[::2]

        enhancers = {"raw": raw, "bad": bad, "picky": picky, "smaller": smaller}
        table = evaluate(squares(), enhancers, Bright(), progress=True)
        assert table["enhancer"].tolist() == ["raw", "picky"]
        assert table["images"].tolist() == [6, 6]
        first, second = table.attrs["faults"]
        assert first == "enhancer `bad` is left out, as it failed on all that it was tried on: KeyError: 1"
        assert second.startswith("enhancer `smaller` is left out")
        assert f"Fault: {first}" in capsys.readouterr().out
        with pytest.raises(ValueError, match=r"none\. enhancer `bad` is left out"):
            evaluate(squares(), {"bad": bad}, Bright())

    def test_missing_in_a_folder(self, tmp_path: Path) -> None:
        data = squares("day", "dusk")
        for one in data.samples[:-2]:
            file = tmp_path / one.light / one.name
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(lift(one.load())).save(file)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "dusk" / "0.png")
        table = evaluate(data, {"raw": raw, "folder": Folder(tmp_path), "lift": lift}, Bright())
        assert table["images"].tolist() == [5, 5, 5, 4, 4, 4, 9, 9, 9]
        missing = "5.png ({0}): enhancer `folder`: FileNotFoundError: expected one image of that name in "
        faults = table.attrs["faults"]
        assert "Expected enhancer `folder` to return uint8 (100, 100, 3) but got uint8 (9, 9, 3)" in faults[0]
        assert [fault.startswith(missing.format(light)) for fault in faults[1:] for light in ("day", "dusk")]
        rows = table.set_index(["light", "enhancer"])
        for name in ("mAP50", "PSNR", "SSIM"):
            assert rows[name]["day", "folder"] == rows[name]["day", "lift"] != rows[name]["day", "raw"]
        assert np.isnan(rows["ms"]["day", "folder"])  # nobody knows

    def test_a_folder_does_not_stand_for_several_draws(self, tmp_path: Path) -> None:
        Image.fromarray(square(9)).save(tmp_path / "0.png")
        data = squares(count=1)
        twice = data.replace(samples=(data.samples[0], replace(data.samples[0], draw=1)))
        with pytest.raises(ValueError, match="Expected --draws 1 with theirs, or argument `draws`"):
            evaluate(twice, {"raw": raw, "theirs": Folder(tmp_path)}, Bright())


class TestSeveralDetectors:
    def test_rows_of_each(self) -> None:
        class Blind(Bright):
            def detect(self, image: Pixels) -> Detections:
                return found([], [], [])

        calls = []
        table = evaluate(
            squares(),
            {"raw": raw, "lift": lift},
            {"bright": Bright(), "blind": Blind()},
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
            squares(places=("indoor",)), {"raw": raw, "d": counted}, {"b": Bright()}, cache=Cache(tmp_path)
        )
        images = results.images()
        assert len(images) == len(results.records) == 12
        assert images["name"].tolist() == [f"{i}.png" for i in range(6) for _ in range(2)]
        assert images["AP50"].tolist() == pytest.approx([0, 1, 1, 1] * 3)
        assert set(images["place"]) == {"indoor"}
        for row, record in zip(images.to_dict("records"), results.records, strict=True):
            assert (row["enhancer"], row["detector"], row["PSNR"]) == (
                record.enhancer,
                "b",
                record.quality["PSNR"],
            )
            if row["enhancer"] == "d":
                kept = load_image(row["file"])
                assert np.array_equal(kept, lift(results.dataset.samples[row["sample"]].load()))
            else:
                assert row["file"] is None


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
                    {"raw": raw, "d": enhance},
                    detect,
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
            evaluate(squares(), {"d": enhance}, detect, cache=Cache(tmp_path))
            assert detect.calls == 7
        assert enhance.calls == 0

    def test_another_identity_is_made_anew(self, tmp_path: Path) -> None:
        evaluate(squares(), {"d": Counted(lift, "old weights")}, Found(), cache=Cache(tmp_path))
        new, detect = Counted(np.zeros_like, "new weights"), Found()
        table = evaluate(squares(), {"d": new}, detect, cache=Cache(tmp_path))
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
            table = evaluate(squares(), {"d": enhance}, Choosy(identity), cache=Cache(tmp_path))
            assert table.attrs["faults"] == ["5.png (day): detector: KeyError"]
        assert enhance.calls == 6

    def test_two_names_for_one_enhancer(self, tmp_path: Path) -> None:
        enhance = Counted(lift, "d")
        table = evaluate(squares(), {"d": enhance, "also": enhance}, Found(), cache=Cache(tmp_path))
        assert (enhance.calls, table["images"].tolist()) == (6, [6, 6])

    def test_a_detector_that_draws_into_its_input(self, tmp_path: Path) -> None:
        class Drawing(Found):
            def detect(self, image: Pixels) -> Detections:
                result = super().detect(image)
                image[:] = 255
                return result

        for detector in (Drawing("draws"), Found()):
            table = evaluate(squares(), {"d": Counted(lift, "d")}, detector, cache=Cache(tmp_path))
            assert table["mAP50"].tolist() == [1.0]

    def test_what_cannot_be_kept_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "enhanced").write_text("in the way of a folder")
        with pytest.raises(ValueError, match=r"0\.png \(day\): cache: (NotADirectory|FileExists)Error"):
            evaluate(squares(), {"d": Counted(lift, "d")}, Found(), cache=Cache(tmp_path))

    def test_without_identity_nothing_is_kept(self, tmp_path: Path) -> None:
        evaluate(squares(), {"raw": raw, "lift": lift}, Bright(), cache=Cache(tmp_path))
        assert list(tmp_path.iterdir()) == []


class TestPrice:
    def test_time_is_of_the_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By a clock that only the enhancer and the detector move on."""
        now = [0.0]
        monkeypatch.setattr("detection.timing.perf_counter", lambda: now[0])

        class Slow(Bright):
            def detect(self, image: Pixels) -> Detections:
                now[0] += 0.02
                return super().detect(image)

        def slow(image: Pixels) -> Pixels:
            now[0] += 0.05
            return image

        table = evaluate(squares(count=2), {"raw": raw, "slow": slow}, Slow()).set_index("enhancer")
        assert table["ms"]["raw"] == 0
        assert table["ms"]["slow"] == pytest.approx(50)
        assert table["detector_ms"].tolist() == pytest.approx([20, 20])


def test_lpips_is_a_column_where_it_is_asked_for() -> None:
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    network = lpips.LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.pth"
        torch.save(network.state_dict(), file)
        measure = LPIPS(file)
    plain = evaluate(squares(), {"raw": raw, "lift": lift}, Bright())
    table = evaluate(
        squares(), {"raw": raw, "lift": lift}, Bright(), metrics=("PSNR", "SSIM", lpips_metric(measure))
    )
    assert "LPIPS" not in plain
    assert list(table.columns[:7]) == ["light", "enhancer", "mAP50", "mAP50-95", "PSNR", "SSIM", "LPIPS"]
    image, clean = (torch.tensor(square(level)).permute(2, 0, 1)[None] / 255 for level in (201, 220))
    alone = evaluate(
        Dataset(squares().samples[1:2]),
        {"raw": raw},
        Bright(),
        metrics=("PSNR", "SSIM", lpips_metric(measure)),
    )
    assert alone["LPIPS"].tolist() == pytest.approx([float(measure(image, clean))])


CLASSICS = {name: enhancer(name) for name in ("gamma", "histogram")}


class TestFaultsWithoutDetectors:
    @pytest.mark.parametrize(
        ("side", "message"),
        [
            (10, "SSIM: ValueError: Expected images of at least 11×11 but got 10×10"),
            (30, "LPIPS: ValueError: Expected images of at least 31×31"),
        ],
    )
    def test_images_smaller_than_a_window(
        self, night: Dataset, chance: Path, side: int, message: str
    ) -> None:
        def small() -> Pixels:
            return np.zeros((side, side, 3), np.uint8)

        tiny = replace(night.samples[0], name="tiny", load=small, reference=lambda: small() + 9)
        data = replace(night, samples=(tiny, night.samples[1]))
        metrics = ("PSNR", "SSIM", lpips_metric(LPIPS(chance)))
        found = collect(data, {"gamma": CLASSICS["gamma"]}, metrics=metrics)
        (fault,) = found.faults
        assert fault.startswith("tiny (dark): ")
        assert message in fault
        assert len(found.samples) == 1
        with pytest.raises(ValueError, match="at least one readable image"):
            collect(replace(night, samples=(tiny,)), {"gamma": CLASSICS["gamma"]}, metrics=metrics)

    def test_an_image_that_is_its_reference(self, night: Dataset) -> None:
        """Its infinite PSNR would be the mean's."""
        same = replace(night.samples[0], load=night.samples[0].reference)
        found = collect(night.replace(samples=(same, *night.samples[1:])), {"raw": raw})
        (fault,) = found.faults
        assert "it has the pixels of its reference" in fault
        assert np.isfinite(found.table()["PSNR"]).all()

    def test_sides_that_are_swapped(self, night: Dataset) -> None:
        swapped = tuple(replace(s, load=s.reference, reference=s.load) for s in night.samples if s.reference)
        found = collect(night.replace(samples=swapped), {"raw": raw})
        (fault,) = found.faults
        assert fault.endswith("brighter than its reference: the sides of the pairs may be swapped")
        assert f"and {len(swapped) - 1} more" in fault
        assert len(found.samples) == len(swapped)  # told, not left out

    def test_what_one_enhancer_fails_on_counts_for_none(self, night: Dataset) -> None:
        dark = night.samples[0].load()

        def fails(image: Pixels) -> Pixels:
            if np.array_equal(image, dark):
                raise RuntimeError("no luck")
            return image

        seen: list[str] = []
        found = collect(night, {"raw": raw, "fails": fails}, on_image=lambda s, _: seen.append(s.name))
        assert seen == [sample.name for sample in night.samples[1:]]
        assert found.faults == (f"{night.samples[0].name} (dark): enhancer `fails`: RuntimeError: no luck",)
        assert found.table()["images"].tolist() == [2, 2, 1, 1, 3, 3]

    def test_an_enhancer_that_always_fails_is_left_out(self, night: Dataset) -> None:
        def fails(image: Pixels) -> Pixels:
            raise RuntimeError("no luck")

        found = collect(night, {"raw": raw, "fails": fails})
        assert list(found.enhancers) == ["raw"]
        assert len(found.samples) == 4
        (fault,) = found.faults
        assert fault.startswith("enhancer `fails` is left out")
        assert fault.endswith("RuntimeError: no luck")
        with pytest.raises(ValueError, match="no luck"):
            collect(night, {"fails": fails})

    def test_folders_of_results(self, tmp_path: Path) -> None:
        root, theirs = tmp_path / "set", tmp_path / "theirs"
        for folder in (root / "low", root / "high", theirs):
            folder.mkdir(parents=True)
        for name in ("1", "2", "3", "4"):
            image = sample_set().samples[3].load()[:40, :50]
            Image.fromarray(image // 4).save(root / "low" / f"{name}.png")
            Image.fromarray(image).save(root / "high" / f"{name}.png")
            if name != "2":
                Image.fromarray(image // 2 if name == "1" else image[: 40 - (name == "4")]).save(
                    theirs / f"{name}.png", format="JPEG" if name == "3" else "PNG"
                )
        found = collect(read_test_sets(root), {"raw": raw, "theirs": Folder(theirs)})
        assert [found.dataset.samples[number].name for number in found.samples] == ["1.png"]
        missing, compressed, size = found.faults
        assert "2.png" in missing
        assert "expected one image of that name" in missing
        assert "3.png is a JPEG" in compressed
        assert "to return uint8 (40, 50, 3) but got uint8 (39, 50, 3)" in size
        row = found.table().to_dict("records")[1]
        assert row["PSNR"] == pytest.approx(peak_signal_noise_ratio(image, image // 2))
        assert np.isnan(row["ms"])


def test_a_killed_run_goes_on(night: Dataset, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        collect(night, CLASSICS, cache=cache, on_image=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    assert len(kept) == 2
    found = collect(night, CLASSICS, cache=cache)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(list(tmp_path.rglob("*.png"))) == 8
    for record in found.records:
        made = CLASSICS[record.enhancer](night.samples[record.sample].load())
        assert np.array_equal(found.enhanced(record), made)
