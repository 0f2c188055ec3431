"""Weights: loaded by name, folder, file or hub id, and saved; always safetensors, always strict.

A set of weights is a folder with ``model.safetensors``, whose header holds the configuration and how it was trained,
as JSON, and ``README.md``, the model card. Sets that come with the package lie in ``glare/pretrained``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor

from glare.config import GLAREConfig
from glare.files import sha256, whole_file
from glare.model import GLARE
from glare.official import from_official as from_official
from glare.official import official_names as official_names

FILE = "model.safetensors"
CARD = "README.md"
PACKAGED = Path(__file__).parent / "pretrained"


def available() -> list[str]:
    """Return the names of the weights that come with the package.

    >>> available()
    ['glare-tiny']
    """
    return sorted(p.parent.name for p in PACKAGED.glob(f"*/{FILE}"))


def find(name: str | Path) -> Path:
    """Return the safetensors file that ``name`` stands for.

    Args:
        name: a name out of `available`, a folder that holds ``model.safetensors``, a ``.safetensors`` file, or a
            Hugging Face Hub id ``owner/name``, which is downloaded into the hub's cache.

    Raises:
        FileNotFoundError: if there is no such thing.
    """
    path = Path(name)
    for candidate in (PACKAGED / path / FILE, path / FILE, path):
        if candidate.is_file():
            return candidate
    if (
        re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name))
        and not path.exists()
        and path.suffix != ".safetensors"
    ):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(str(name), FILE))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"No weights at {str(name)!r}: there is no such folder, and as a Hugging Face Hub id it could not "
                f"be fetched ({error})."
            ) from error
    raise FileNotFoundError(
        f"No weights at {str(name)!r}: expected one of {available()}, a folder with {FILE}, a .safetensors file, "
        "or a Hugging Face Hub id 'owner/name'."
    )


def load(name: str | Path) -> GLARE:
    """Build the model that a set of weights describes and load them, strictly, as float32 on the CPU.

    Raises:
        FileNotFoundError: see `find`.
        ValueError: if the file is truncated, is no safetensors file of GLARE, or its tensors do not fit or are not
            finite.

    >>> sum(parameter.numel() for parameter in load("glare-tiny").parameters()) > 10**6
    True
    """
    path = find(name)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    if "config" not in metadata:
        raise ValueError(
            f"{path} (sha256 {sha256(path)}) holds no GLARE configuration: not saved by glare.weights."
        )
    with torch.device("meta"):
        model = GLARE(GLAREConfig.from_dict(json.loads(metadata["config"])))
    if problems := [*model.misfits(tensors), *_not_finite(tensors)]:
        raise ValueError(
            f"{path} (sha256 {sha256(path)}) does not fit its configuration:\n" + "\n".join(problems)
        )
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)
    return model.to(memory_format=torch.channels_last).eval()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} (sha256 {sha256(path)}) is truncated or no safetensors file: {error}"
        ) from error


def history(name: str | Path) -> list[dict[str, Any]]:
    """Return how a set of weights was trained: an entry for each stage, in order, as `glare.training.loop` wrote it.

    Raises:
        FileNotFoundError: see `find`.
        ValueError: if the file is truncated or no safetensors file.

    >>> [entry["stage"] for entry in history("glare-tiny")][:3]
    ['codebook', 'flow', 'fusion, joint']
    """
    with _opened(find(name)) as file:
        entries: list[dict[str, Any]] = json.loads((file.metadata() or {}).get("history", "[]"))
    return entries


def check_whole(name: str | Path) -> None:
    """Raise ValueError for weights that do not enhance yet: those trained in stages I or II alone.

    Raises:
        FileNotFoundError: see `find`.
        ValueError: naming the stages.
    """
    stages = [str(entry["stage"]) for entry in history(name)]
    if stages and not any(stage.startswith("fusion") for stage in stages):
        raise ValueError(
            f"Expected weights of all three stages but {name} was trained for {', '.join(stages)} only: "
            "`glare train` goes on from there."
        )


def terms(name: str | Path) -> str | None:
    """Return the licence that the head of a set's model card names, as on the Hugging Face Hub; None without one."""
    card = find(name).with_name(CARD)
    if card.is_file():
        for line in card.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key in ("license", "license_name") and value.strip() != "other":
                return value.strip().strip('"')
    return None


def trained_on(name: str | Path) -> list[str]:
    """Return fingerprints of the pairs that a set of weights was trained on, for `glare.data.overlap.find_overlaps`.

    The list is empty for weights that were trained on no pairs, or before fingerprints were kept.
    """
    return [line for entry in history(name) for line in entry.get("hashes", ())]


def save(
    model: GLARE,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    history: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``model`` to ``folder/model.safetensors``, beside and then renamed; returns the file's path.

    Raises:
        ValueError: if a weight is not finite, or not in ``dtype``: what is above 65504 is infinity in fp16.

    >>> import tempfile
    >>> save(GLARE("tiny"), tempfile.mkdtemp()).name
    'model.safetensors'
    """
    path = Path(folder) / FILE
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    if problems := _not_finite(tensors):
        raise ValueError(f"The weights for {folder} are not finite as {dtype}:\n" + "\n".join(problems))
    config = json.dumps(model.config.to_dict())
    metadata = {"format": "pt", "config": config, "history": json.dumps(list(history))}
    with whole_file(path) as beside:
        # `save_file` would make a file that only its owner can read.
        beside.write_bytes(serialize(tensors, metadata))
    return path


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """A line for each tensor with NaN or infinity in it."""
    return [f"  not finite: {key}" for key, value in tensors.items() if not torch.isfinite(value).all()]


def push_to_hub(name: str | Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a set of weights, its card with it, to the Hugging Face Hub; `load` then takes ``repo_id``.

    Args:
        name: see `find`; what is uploaded is loaded first, so that nothing broken is.
        repo_id: ``owner/name``, created where it does not exist.
        private: whether a new repository is.
        token: of the hub; by default the one that ``hf auth login`` stored.

    Returns:
        the address of the commit.

    Raises:
        FileNotFoundError, ValueError: see `find` and `load`.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    path = find(name)
    load(path)
    files = {FILE: path, CARD: path.with_name(CARD)}
    api = HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    commit = api.create_commit(
        repo_id,
        [CommitOperationAdd(target, file) for target, file in files.items() if file.is_file()],
        commit_message=f"Weights of GLARE, sha256 {sha256(path)}",
    )
    return str(commit.commit_url)
