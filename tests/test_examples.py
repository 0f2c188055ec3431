"""Whatever a user imports shows how it is used, by an example that pytest runs (``--doctest-modules``)."""

import inspect

import pytest

import detection
import glare

PUBLIC = [
    pytest.param(thing, id=f"{package.__name__}.{name}")
    for package in (glare, detection)
    for name in package.__all__
    # An alias such as `Enhancer` has no docstring of its own.
    if inspect.isfunction(thing := getattr(package, name)) or inspect.isclass(thing)
]


@pytest.mark.parametrize("thing", PUBLIC)
def test_has_an_example(thing: object) -> None:
    assert ">>> " in (inspect.getdoc(thing) or "")
