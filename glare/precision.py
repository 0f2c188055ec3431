"""Precision on the command line: ``--dtype`` by the names of torch's dtypes, as `GLAREEnhance` has ``dtype``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any


def add_dtype(parser: argparse.ArgumentParser, choices: Sequence[str], help: str, formerly: str) -> None:
    """Give a command ``--dtype``.

    Args:
        parser: of the command.
        choices: names of torch's dtypes; the first is the default.
        help: what they mean for this command.
        formerly: the flag that meant the second choice before there was ``--dtype``. It still works, and says on
            stderr what it is called now.

    >>> parser = argparse.ArgumentParser()
    >>> add_dtype(parser, ("float32", "bfloat16"), "of the network", formerly="--bf16")
    >>> parser.parse_args(["--dtype", "bfloat16"]).dtype
    'bfloat16'
    """
    parser.add_argument("--dtype", choices=choices, default=choices[0], help=f"{help} (%(default)s)")
    parser.add_argument(formerly, dest="dtype", action=_Formerly, const=choices[1], help=argparse.SUPPRESS)


class _Formerly(argparse.Action):
    """An older spelling of ``--dtype NAME``."""

    def __init__(self, option_strings: Sequence[str], dest: str, **given: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **given)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        print(f"{parser.prog}: {option} is now --dtype {self.const}", file=sys.stderr)
        setattr(namespace, self.dest, self.const)
