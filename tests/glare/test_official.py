"""The official checkpoints' names and shapes; `test_parity` holds what the network computes to the official one."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glare import weights
from glare.config import GLAREConfig
from glare.official import from_official

KEYS = json.loads((Path(__file__).parent / "parity" / "official_keys.json").read_text())


class TestFromOfficial:
    """`from_official` on the official key list at the official width, without the memory of it."""

    @pytest.fixture
    def checkpoints(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        netg, vqgan = (
            {key: torch.empty(shape, device="meta") for key, shape in KEYS[part].items()}
            for part in ("netg", "vqgan")
        )
        return netg, vqgan

    def test_all_keys_as_they_are(self, checkpoints: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        assert from_official(*checkpoints).config == GLAREConfig.preset("base")

    def test_dead_keys_are_optional(self, checkpoints: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        netg, vqgan = checkpoints
        dead = (
            "flowUpsamplerNet.f.",
            *(f"deformable_decoder.{x}." for x in ("conv_out", "scale", "bias", "enc")),
        )
        netg = {k: v for k, v in netg.items() if not k.startswith(dead)}
        vqgan = {
            k: v for k, v in vqgan.items() if not k.startswith(("vgg_feat_extractor.", "conv_semantic."))
        }
        assert len(netg) < len(KEYS["netg"])
        assert len(vqgan) < len(KEYS["vqgan"])
        assert from_official(netg, vqgan).config == GLAREConfig.preset("base")

    def test_missing_left_over_and_misshapen_keys_are_listed(
        self, checkpoints: tuple[dict[str, Tensor], dict[str, Tensor]]
    ) -> None:
        netg, vqgan = checkpoints
        del netg["RRDB.color_conv.bias"]
        netg["extra.weight"] = torch.zeros(1)
        vqgan["decoder.norm_out.bias"] = torch.zeros(7)
        with pytest.raises(ValueError, match="do not fit") as error:
            from_official(netg, vqgan)
        text = str(error.value)
        assert "missing: condition.mean.bias" in text
        assert "left over: extra.weight" in text
        assert (
            "misshapen: codebook.decoder.norm_out.bias (official vqgan: decoder.norm_out.bias) is (7,)"
            in text
        )

    def test_a_key_that_gives_a_width(self, checkpoints: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        netg, vqgan = checkpoints
        del vqgan["quantize.embedding.weight"]
        with pytest.raises(ValueError, match=r"missing: codebook\.quantizer\.embedding\.weight"):
            from_official(netg, vqgan)

    def test_is_found_where_it_was(self, checkpoints: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
        assert weights.from_official is from_official
