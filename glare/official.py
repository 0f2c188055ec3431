"""The official checkpoints of GLARE as a model of this package: names, widths and shapes translated."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from glare.config import GLAREConfig
from glare.model import GLARE

# The official names, as regular expressions, and ours. The first rules name the part, the others the layers in it.
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
    """Map our name to (``"netg"`` or ``"vqgan"``, official name) for every key that the network uses."""
    sources = (("netg", netg, _NETG_PARTS, _NETG_DEAD), ("vqgan", vqgan, _VQGAN_PARTS, _VQGAN_DEAD))
    return {
        _our_name(key, parts): (source, key)
        for source, mapping, parts, dead in sources
        for key in mapping
        if not dead.match(key)
    }


def from_official(netg: Mapping[str, Tensor], vqgan: Mapping[str, Tensor]) -> GLARE:
    """Build the model of the official checkpoints, with widths inferred from the shapes.

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
    if problems := model.misfits(tensors):
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
