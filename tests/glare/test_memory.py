import torch

from glare import memory
from glare.config import GLAREConfig


def test_memory_left_is_told() -> None:
    assert 2**26 < memory.available(torch.device("cpu")) <= memory.main_memory() // 4


def test_an_image_takes_more_in_a_wider_network() -> None:
    tiny, small, base = (
        memory.bytes_per_pixel(GLAREConfig.preset(name)) for name in ("tiny", "small", "base")
    )
    assert tiny < small < base


def test_giving_back_leaves_what_is_in_use() -> None:
    kept = torch.arange(2**20)
    memory.give_back()
    assert torch.equal(kept, torch.arange(2**20))
