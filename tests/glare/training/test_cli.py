"""The arguments of ``glare train``."""

from pathlib import Path

import pytest

from glare import weights
from glare.cli import main
from glare.model import GLARE
from glare.transform import GLAREEnhance
from tests.glare.conftest import SMALL
from tests.glare.training.conftest import arguments, brightness, halves


def test_terms_of_frozen_networks_and_a_discriminator(
    pairs: Path, start: Path, chance: Path, tmp_path: Path
) -> None:
    lpips = ["--perceptual", str(chance)]
    assert (
        main(arguments("codebook", pairs, start, tmp_path / "1", 2, *lpips, "--adversarial-after", "1")) == 0
    )
    assert main(arguments("flow", pairs, tmp_path / "1/last", tmp_path / "2", 2)) == 0
    features = f"{__name__}:{halves.__name__}:2"
    words = arguments("fusion", pairs, tmp_path / "2/last", tmp_path / "3", 2, *lpips)
    objective = f"{__name__}:{brightness.__name__}:a/b=0.5"
    assert main([*words, "--features", features, "--objective", objective]) == 0
    first, _, third = (entry["command"] for entry in weights.history(tmp_path / "3/last"))
    assert "--perceptual alex.pth --adversarial-after 1" in first
    assert f"--features {features} --objective {__name__}:brightness:b=0.5" in third


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("flow", ["--perceptual", "x"]),
        ("codebook", ["--features", "x"]),
        ("flow", ["--objective", "x"]),
        ("fusion", ["--adversarial-after", "1"]),
    ],
)
def test_terms_that_a_stage_does_not_have(
    stage: str, words: list[str], pairs: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(stage, pairs, start, tmp_path, 1, *words)) == 1
    told = capsys.readouterr().err
    assert words[0] in told
    assert "belongs to" in told


def test_stages_need_the_one_before(pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "flow", "--pairs", str(pairs), "--out", str(tmp_path)]
    assert main(words) == 1
    assert "starts from the weights of the stage before: give --init" in capsys.readouterr().err


def test_stage_iii_needs_a_trained_flow(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.save(GLARE(SMALL), tmp_path / "first", history=[{"stage": "codebook"}])
    assert main(arguments("fusion", pairs, tmp_path / "first", tmp_path / "third", 2)) == 1
    assert "first holds codebook alone" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"all three stages but .*first was trained for codebook only"):
        GLAREEnhance(tmp_path / "first")
