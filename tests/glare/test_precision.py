import argparse

import pytest

from glare.cli import _parser
from glare.precision import add_dtype


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="a command")
    add_dtype(parser, ("float32", "bfloat16"), "of the network", formerly="--bf16")
    return parser


def test_the_first_is_the_default(parser: argparse.ArgumentParser) -> None:
    assert parser.parse_args([]).dtype == "float32"
    assert parser.parse_args(["--dtype", "bfloat16"]).dtype == "bfloat16"
    assert "--bf16" not in parser.format_help()
    with pytest.raises(SystemExit):
        parser.parse_args(["--dtype", "float16"])


def test_the_older_flag_works_and_tells_once(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parser.parse_args(["--bf16"]).dtype == "bfloat16"
    assert capsys.readouterr().err == "a command: --bf16 is now --dtype bfloat16\n"
    parser.parse_args(["--dtype", "bfloat16"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["enhance", "in", "out"], "float32"),
        (["enhance", "in", "out", "--bf16"], "bfloat16"),
        (["train", "flow", "--out", "a"], "bfloat16"),
        (["train", "flow", "--out", "a", "--float32"], "float32"),
        (["export", "--onnx", "a"], "float32"),
        (["export", "--onnx", "a", "--fp16"], "float16"),
    ],
)
def test_one_spelling_for_all_commands(words: list[str], expected: str) -> None:
    assert _parser().parse_args(words).dtype == expected
