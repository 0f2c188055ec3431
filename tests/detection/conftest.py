from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from detection import Dataset, darken, sample_set


class ExDarkFolder:
    """A folder in ExDark's layout that grows image by image; the names in it are made up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("ExDark", "ExDark_Annno"):
            (root / folder).mkdir(parents=True)
        (root / "imageclasslist.txt").write_text("Name | Class | Light | In/Out | Train/Val/Test\n")

    def add(
        self,
        name: str,
        *boxes: str,
        listed: str = "1 1 1 3",
        size: tuple[int, int] = (40, 30),
        annotation: str | None = None,
        **saved: object,
    ) -> None:
        """Add `class/image` with boxes ``class left top width height`` and the numbers of its line in the list."""
        image = self.root / "ExDark" / name
        image.parent.mkdir(exist_ok=True)
        Image.effect_noise(size, 60).convert("RGB").save(image, **saved)
        self.annotate(annotation or f"{name}.txt", boxes)
        self.list(f"{image.name} {listed}")

    def annotate(self, name: str, boxes: Sequence[str]) -> None:
        lines = ["% bbGt version=3", *(f"{box} 0 0 0 0 0 0 0" for box in boxes)]
        self.write(name, "\n".join(lines) + "\n")

    def write(self, name: str, annotation: str) -> None:
        file = self.root / "ExDark_Annno" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(annotation)

    def list(self, line: str) -> None:
        with (self.root / "imageclasslist.txt").open("a") as file:
            file.write(line + "\n")


@pytest.fixture
def exdark(tmp_path: Path) -> ExDarkFolder:
    return ExDarkFolder(tmp_path / "exdark")


@pytest.fixture
def night() -> Dataset:
    """Two of the built-in photographs, windows of them, darkened."""
    clean = sample_set()
    cut = [
        replace(sample, load=lambda load=sample.load: load()[:200, :240].copy())
        for sample in clean.samples[2:4]
    ]
    return darken(replace(clean, samples=tuple(cut)), "dark", "mild")
