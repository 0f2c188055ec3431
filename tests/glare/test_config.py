import json

import pytest

from glare.config import PRESETS, GLAREConfig


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_survives_json(name: str) -> None:
    config = GLAREConfig.preset(name)
    assert GLAREConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"norm_groups": 7}, "multiple of `norm_groups`=7"),
        ({"encoder_blocks": (1, 2)}, "Expected `encoder_blocks` to be three positive integers but got"),
        ({"channels": 0}, "Expected `channels` to be an integer of at least 1 but got 0"),
        ({"latent_channels": 1}, "Expected `latent_channels` to be at least 2"),
        ({"attention_grid": 0}, "`attention_grid`"),
        ({"warp_levels": ()}, "`warp_levels`"),
        ({"warp_channels": 6}, "multiples of `warp_groups`=4"),
    ],
)
def test_errors_name_the_argument(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GLAREConfig(**values)  # type: ignore[arg-type]


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"preset out of .*tiny.* but got 'huge'"):
        GLAREConfig.preset("huge")
    with pytest.raises(ValueError, match=r"Unknown entries in the configuration: \['depth'\]"):
        GLAREConfig.from_dict({"depth": 3})
