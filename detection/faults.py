"""What goes wrong with one image is told, and does not end the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FaultError(Exception):
    """What went wrong with an image, to be listed."""


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Whatever goes wrong with one image is listed and does not end the run, whoever's code it was in."""
    try:
        yield
    except FaultError as fault:
        raise FaultError(f"{what}: {fault}") from fault
    except Exception as error:
        raise FaultError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return an exception of somebody else's in a line: its type, and the first line that it says."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
