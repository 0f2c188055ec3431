"""Leakage: test images that the weights of GLARE were trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detection.data.core import Sample
from detection.enhancers import Enhancer, Folder, Named
from glare import GLAREEnhance, weights
from glare.data.overlap import Overlap, find_overlaps


def find_leakage(
    samples: Sequence[Sample], enhancers: Mapping[str, Enhancer | Folder]
) -> tuple[list[str], dict[str, list[Overlap]]]:
    """Look for test images that the weights of GLARE were trained on, by content and by name.

    Returns:
        Lines for a reader, and what was found by the name of the enhancer; nothing where there is nothing to tell.
    """
    files = [path for sample in samples if (path := sample.reference_path or sample.path)]
    files = list(dict.fromkeys(files))
    by_weights: dict[Path, list[str]] = {}
    for name, enhance in enhancers.items():
        network = enhance.enhance if isinstance(enhance, Named) else enhance
        if isinstance(network, GLAREEnhance) and network.weights is not None:
            by_weights.setdefault(weights.find(network.weights), []).append(name)
    lines: list[str] = []
    found: dict[str, list[Overlap]] = {}
    for file, names in by_weights.items():
        title = ", ".join(names)
        trained = weights.trained_on(file)
        if not trained:
            data = {str(source) for entry in weights.history(file) for source in entry.get("data", ())}
            told = f" (they name {', '.join(sorted(data))})" if data else ""
            lines.append(
                f"Warning: the weights of {title} tell no fingerprints of their training images{told}: whether the "
                "test images are among them was not checked."
            )
            continue
        try:
            overlaps = find_overlaps(files, trained)
        except ValueError as error:  # Pillow reads files that torchvision does not; the table is worth more
            lines.append(f"Warning: whether {title} was trained on test images was not checked: {error}")
            continue
        found |= dict.fromkeys(names, overlaps)
        pictures = [overlap for overlap in overlaps if overlap.by == "picture"]
        if pictures:
            lines.append(
                f"Warning: {title} was trained on {len(pictures)} of the {len(files)} test images, or on others that "
                f"look alike, such as another shot from the same tripod, which flatters it: {_listed(pictures)}."
            )
        if named := [overlap for overlap in overlaps if overlap.by == "name"]:
            lines.append(
                f"{len(named)} of the {len(files)} test images have the name, but not the looks, of a training image "
                f"of {title}; where images are called by numbers that means nothing: {_listed(named)}."
            )
    return lines, found


def scenes_seen(samples: Sequence[Sample], found: Mapping[str, Sequence[Overlap]]) -> list[str]:
    """Return a line for each enhancer that was checked: how many scenes of each test set its weights were trained on.

    Args:
        samples: the test images; their `light` is the set they are in.
        found: by the name of the enhancer, of `find_leakage`.
    """
    scenes: dict[str, set[Path]] = {}
    for sample in samples:
        if file := sample.reference_path or sample.path:
            scenes.setdefault(sample.light, set()).add(file)
    lines = []
    for name, overlaps in found.items():
        seen = {overlap.file for overlap in overlaps if overlap.by == "picture"}
        counts = ", ".join(f"{title} {len(files & seen)} of {len(files)}" for title, files in scenes.items())
        lines.append(f"Scenes that the weights of {name} were trained on, by set: {counts}.")
    return lines


def _listed(overlaps: Sequence[Overlap]) -> str:
    shown = ", ".join(f"{overlap.file.name} ({overlap.trained})" for overlap in overlaps[:10])
    return shown + (f" and {len(overlaps) - 10} more" if len(overlaps) > 10 else "")
