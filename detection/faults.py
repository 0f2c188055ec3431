"""Faults: an error with one image is listed, and does not end the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FaultError(Exception):
    """Error with one image, to be listed."""


@contextmanager
def blame(what: str) -> Iterator[None]:
    """Turn any error, in whoever's code, into a `FaultError` that says what it happened in."""
    try:
        yield
    except FaultError as fault:
        raise FaultError(f"{what}: {fault}") from fault
    except Exception as error:
        raise FaultError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Return an exception in one line: its type, and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
