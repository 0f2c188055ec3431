"""Weights: by name, folder, file or hub id; always safetensors, always strict.

A set of weights is a folder with ``model.safetensors``, whose header holds the configuration and how it was trained,
as JSON, and ``README.md``, the model card. Sets that come with the package lie in ``glare/pretrained``.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from glare.model import GLARE

FILE = "model.safetensors"
CARD = "README.md"
PACKAGED = Path(__file__).parent / "pretrained"


def available() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(p.parent.name for p in PACKAGED.glob(f"*/{FILE}"))


def find(name: str | Path) -> Path:
    """The safetensors file that ``name`` stands for.

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
        ValueError: if the file is truncated, is no safetensors file of GLARE, or its tensors do not fit.
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
    expected = model.state_dict()
    problems = _differences(expected, tensors)
    if problems:
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
    """How a set of weights was trained: an entry for each stage, in order, as `glare.training.loop` wrote it.

    Raises:
        FileNotFoundError: see `find`.
        ValueError: if the file is truncated or no safetensors file.
    """
    with _opened(find(name)) as file:
        entries: list[dict[str, Any]] = json.loads((file.metadata() or {}).get("history", "[]"))
    return entries


def check_whole(name: str | Path) -> None:
    """Refuse weights that do not enhance yet: of which training tells stages I or II, and nothing of III.

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
    """The licence that the head of a set's model card names, as on the Hugging Face Hub; None if no card tells."""
    card = find(name).with_name(CARD)
    if card.is_file():
        for line in card.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key in ("license", "license_name") and value.strip() != "other":
                return value.strip().strip('"')
    return None


def trained_on(name: str | Path) -> list[str]:
    """Fingerprints of the pairs that a set of weights was trained on, for `glare.data.overlap.find_overlaps`.

    Empty if the file tells none: it was trained on no pairs, or before they were kept.
    """
    return [line for entry in history(name) for line in entry.get("hashes", ())]


def save(
    model: GLARE,
    folder: str | Path,
    dtype: torch.dtype = torch.float16,
    history: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Write ``model`` to ``folder/model.safetensors``, beside and then renamed; returns the file's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().to("cpu", dtype).contiguous() for key, value in model.state_dict().items()}
    beside = folder / f".{FILE}.{os.getpid()}"
    config = json.dumps(model.config.to_dict())
    metadata = {"format": "pt", "config": config, "history": json.dumps(list(history))}
    # Not `save_file`, which makes a file that only its owner can read.
    beside.write_bytes(serialize(tensors, metadata))
    return beside.replace(folder / FILE)


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


def sha256(path: str | Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differences(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """A line for each key that is missing, left over or misshapen."""
    lines = [f"  missing: {key}" for key in expected if key not in given]
    lines += [f"  left over: {key}" for key in given if key not in expected]
    lines += [
        f"  misshapen: {key} is {tuple(given[key].shape)}, expected {tuple(value.shape)}"
        for key, value in expected.items()
        if key in given and given[key].shape != value.shape
    ]
    return lines


# --- the official checkpoints ---------------------------------------------------------------------------------------

# The official names, as regular expressions, and ours. The first rules name the part, the others what lies in it.
_NETG_PARTS = (
    (r"RRDB\.encoder\.", "condition.encoder."),
    (r"RRDB\.cond_conv\.0\.", "condition.feature."),
    (r"RRDB\.color_conv\.", "condition.mean."),
    (r"flowUpsamplerNet\.layers\.(\d+)\.", r"flow.steps.\1."),
    (r"deformable_decoder\.residual_conv\.", "fusion.decoder.conv_out."),
    # The official index counts from 1/2 resolution up, ours from full resolution down.
    (r"deformable_decoder\.mix\.0\.w", "fusion.mix.1.theta"),
    (r"deformable_decoder\.mix\.1\.w", "fusion.mix.0.theta"),
    (r"deformable_decoder\.warp\.0\.", "fusion.warp.1."),
    (r"deformable_decoder\.warp\.1\.", "fusion.warp.0."),
    (r"deformable_decoder\.", "fusion.decoder."),
)
_VQGAN_PARTS = (
    (r"quantize\.", "codebook.quantizer."),
    (r"", "codebook."),
)
_NETG_DEAD = re.compile(r"flowUpsamplerNet\.f\.|deformable_decoder\.(conv_out|scale|bias|enc)\.")
_VQGAN_DEAD = re.compile(r"vgg_feat_extractor\.|conv_semantic\.")
_INSIDE = (
    (r"\.(?:down|up)\.(\d)\.block\.", r".level\1.blocks."),
    (r"\.(?:down|up)\.(\d)\.attn\.", r".level\1.attentions."),
    (r"\.down\.(\d)\.downsample\.", r".down\1."),
    (r"\.up\.1\.upsample\.", ".up0."),
    (r"\.up\.2\.upsample\.", ".up1."),
    (r"\.mid\.block_1\.", ".middle.0."),
    (r"\.mid\.attn_1\.", ".middle.1."),
    (r"\.mid\.block_2\.", ".middle.2."),
    (r"\.nin_shortcut\.", ".shortcut."),
    (r"\.proj_out\.", ".proj."),
    (r"\.affine\.fFeatures\.", ".coupling.injector."),
    (r"\.affine\.fAffine\.", ".coupling.affine."),
    (r"(injector|affine)\.0\.actnorm\.", r"\1.norm1."),
    (r"(injector|affine)\.2\.actnorm\.", r"\1.norm2."),
    (r"(injector|affine)\.0\.weight", r"\1.conv1.weight"),
    (r"(injector|affine)\.2\.weight", r"\1.conv2.weight"),
    (r"(injector|affine)\.4\.logs", r"\1.logs"),
    (r"(injector|affine)\.4\.", r"\1.conv3."),
    (r"(warp\.\d)\.offset\.", r"\1.guide."),
    (r"(warp\.\d)\.dcn\.conv_offset\.", r"\1.offsets."),
    (r"(warp\.\d)\.dcn\.", r"\1."),
)


def _our_name(official: str, parts: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in parts:
        name, hits = re.subn(f"^{pattern}", replacement, official, count=1)
        if hits:
            break
    else:
        return official
    for pattern, replacement in _INSIDE:
        name = re.sub(pattern, replacement, name)
    return name


def official_names(netg: Mapping[str, Tensor], vqgan: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """Our name -> (``"netg"`` or ``"vqgan"``, official name) for every key that the network uses."""
    sources = (("netg", netg, _NETG_PARTS, _NETG_DEAD), ("vqgan", vqgan, _VQGAN_PARTS, _VQGAN_DEAD))
    return {
        _our_name(key, parts): (source, key)
        for source, mapping, parts, dead in sources
        for key in mapping
        if not dead.match(key)
    }


def from_official(netg: Mapping[str, Tensor], vqgan: Mapping[str, Tensor]) -> GLARE:
    """The model of the official checkpoints, widths inferred from the shapes.

    Args:
        netg: ``state_dict`` of the official stage-3 network (``RRDB.*``, ``flowUpsamplerNet.*``,
            ``deformable_decoder.*``), dead parameters and all.
        vqgan: ``state_dict`` of the official VQGAN; the VGG extractor in it is not needed.

    Raises:
        ValueError: listing the keys that are missing, left over or misshapen. Keys that the official network
            carries but never uses may be absent.
    """
    names = official_names(netg, vqgan)
    sources = {"netg": netg, "vqgan": vqgan}
    tensors = {ours: sources[source][key] for ours, (source, key) in names.items()}
    config = _infer_config(tensors)
    with torch.device("meta"):
        model = GLARE(config)
    if problems := _differences(model.state_dict(), tensors):
        # The user knows the official names.
        official = {ours: f"{ours} (official {source}: {key})" for ours, (source, key) in names.items()}
        lines = [re.sub(r"(?<=: )\S+", lambda m: official.get(m[0], m[0]), line) for line in problems]
        raise ValueError("The official checkpoints do not fit GLARE:\n" + "\n".join(lines))
    model.load_state_dict(
        {k: v.detach().clone().float() for k, v in tensors.items()}, strict=True, assign=True
    )
    return model.eval()


def _infer_config(tensors: Mapping[str, Tensor]) -> GLAREConfig:
    def shape(key: str) -> tuple[int, ...]:
        if key not in tensors:
            raise ValueError(
                f"The official checkpoints do not fit GLARE:\n  missing: {key}, which gives a width"
            )
        return tuple(tensors[key].shape)

    def count(pattern: str) -> int:
        return len({m[1] for key in tensors if (m := re.match(pattern, key))})

    encoder, decoder = "codebook.encoder.", "codebook.decoder."
    widths = [shape(f"{encoder}level{level}.blocks.0.conv1.weight")[0] for level in range(3)]
    steps = count(r"flow\.steps\.(\d+)\.")
    coupled = [f"flow.steps.{i}.coupling.affine.conv1.weight" in tensors for i in range(steps)]
    # A group of steps opens where a plain step follows a coupled one (or nothing).
    levels = sum(not now and (i == 0 or coupled[i - 1]) for i, now in enumerate(coupled))
    first = f"flow.steps.{coupled.index(True) if True in coupled else 0}.coupling.injector.conv1.weight"
    codes, latent_channels = shape("codebook.quantizer.embedding.weight")
    return GLAREConfig(
        channels=widths[0],
        multipliers=(1, widths[1] // widths[0], widths[2] // widths[0]),
        encoder_blocks=tuple(count(rf"{re.escape(encoder)}level{i}\.blocks\.(\d+)\.") for i in range(3)),  # type: ignore[arg-type]
        decoder_blocks=tuple(count(rf"{re.escape(decoder)}level{i}\.blocks\.(\d+)\.") for i in range(3)),  # type: ignore[arg-type]
        latent_channels=latent_channels,
        codes=codes,
        condition_channels=shape("condition.feature.weight")[0],
        flow_levels=max(levels, 1),
        flow_plain_steps=coupled.count(False) // max(levels, 1),
        flow_steps=coupled.count(True) // max(levels, 1),
        flow_hidden=shape(first)[0],
        warp_groups=shape("fusion.warp.0.offsets.weight")[0] // 27,
    )
