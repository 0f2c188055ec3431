"""The built-in set: six photographs out of packages we depend on, with boxes drawn by hand."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from detection.data.coco import read_coco
from detection.data.core import Dataset

# Where each photograph lies in its package, so that no package has to be imported to find it.
_PHOTOGRAPHS = {
    "bus.jpg": "ultralytics/assets/bus.jpg",
    "zidane.jpg": "ultralytics/assets/zidane.jpg",
    "astronaut.png": "skimage/data/astronaut.png",
    "chelsea.png": "skimage/data/chelsea.png",
    "coffee.png": "skimage/data/coffee.png",
    "motorcycle_left.png": "skimage/data/motorcycle_left.png",
}


def sample_set() -> Dataset:
    """Return the six photographs with their boxes in the twelve ExDark classes; nothing is downloaded.

    They ship inside ultralytics (``bus``, ``zidane``) and scikit-image (``astronaut``, ``chelsea``,
    ``coffee`` and the left image of ``stereo_motorcycle``). Six photographs are a demonstration and no
    measurement.

    Raises:
        ModuleNotFoundError: if one of the two packages is not installed.

    >>> [sample.name for sample in sample_set().samples]
    ['bus.jpg', 'zidane.jpg', 'astronaut.png', 'chelsea.png', 'coffee.png', 'motorcycle_left.png']
    """
    labelled = read_coco(Path(__file__).with_name("annotations.json"), _photograph)
    return labelled.replace(note="six photographs, a demonstration and no measurement")


def _photograph(name: str) -> Path:
    package, _, rest = _PHOTOGRAPHS[name].partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"The built-in set needs {package}: pip install 'glare-torch[detection]'.")
    return Path(spec.submodule_search_locations[0]) / rest
