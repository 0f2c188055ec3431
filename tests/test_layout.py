"""Every module has its tests in one place: those of ``glare/a/b.py`` are in ``tests/glare/a/test_b.py``."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["glare", "detection"])
def test_each_module_has_its_mirror(package: str) -> None:
    modules = [
        file.relative_to(ROOT)
        for file in sorted((ROOT / package).rglob("*.py"))
        if file.name not in ("__init__.py", "__main__.py")
    ]
    assert modules
    mirrors = [Path("tests", module.parent, f"test_{module.name}") for module in modules]
    assert [mirror.as_posix() for mirror in mirrors if not (ROOT / mirror).is_file()] == []
