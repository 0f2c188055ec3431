import pytest

from detection.faults import FaultError, blame, one_line


def test_blame_names_the_way_to_what_went_wrong() -> None:
    way = r"^1\.png: enhancer `mine`: KeyError: 'a'$"
    with pytest.raises(FaultError, match=way), blame("1.png"), blame("enhancer `mine`"):
        raise KeyError("a")


def test_blame_lets_a_user_stop() -> None:
    with pytest.raises(KeyboardInterrupt), blame("1.png"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("one\ntwo"), "ValueError: one"), (KeyError(), "KeyError"), (OSError(""), "OSError")],
)
def test_one_line(error: Exception, told: str) -> None:
    assert one_line(error) == told
