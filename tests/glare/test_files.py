import hashlib
from pathlib import Path

import pytest

from glare.files import IMAGE_SUFFIXES, sha256, whole_file


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.txt"
    with whole_file(target) as beside:
        beside.write_text("half")
        assert beside.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "half"
    assert names(target.parent) == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def stopped_halfway() -> None:
        with whole_file(str(target)) as beside:
            beside.write_text("half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stopped_halfway()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nothing_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert names(tmp_path) == []


def test_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "b")


def test_endings_are_in_lower_case() -> None:
    assert {suffix.lower() for suffix in IMAGE_SUFFIXES} == IMAGE_SUFFIXES
