from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from glare.image import as_batch, from_float, log_input, pad, to_float


def test_log_input_is_the_papers() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    expected = torch.log(torch.tensor([1e-3, 1e-3, 0.501, 1.001]))
    torch.testing.assert_close(log_input(x), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 5), (4, 8), (7, 3), (33, 31)])
@pytest.mark.parametrize("margin", [0, 3])
def test_pad_reaches_multiples_and_crop_undoes_it(size: tuple[int, int], margin: int) -> None:
    x = torch.rand(2, 3, *size)
    padded, crop = pad(x, 4, margin)
    assert padded.shape[2] % 4 == padded.shape[3] % 4 == 0
    assert all(p - s >= margin and p - s < margin + 4 for p, s in zip(padded.shape[2:], size, strict=True))
    assert torch.equal(crop(padded), x)


def test_pad_mirrors_where_it_can_and_repeats_where_not() -> None:
    x = torch.arange(6.0).view(1, 1, 1, 6)
    padded, _ = pad(x, 4)
    assert padded[0, 0, :, :].tolist() == [[0, 1, 2, 3, 4, 5, 4, 3]] * 4


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_float_and_back_is_the_identity(dtype: torch.dtype) -> None:
    x = torch.arange(256, dtype=torch.uint8) if dtype == torch.uint8 else torch.linspace(0, 1, 257).to(dtype)
    there = to_float(x)
    assert there.dtype == torch.float32
    assert 0.0 <= there.min() <= there.max() <= 1.0
    back = from_float(there, dtype)
    assert back.dtype == dtype
    torch.testing.assert_close(back, x, atol=1e-7, rtol=0)


def test_from_float_cuts_before_it_rounds() -> None:
    assert from_float(torch.tensor([-0.2, 1.2]), torch.uint8).tolist() == [0, 255]


def _picture(mode: str) -> PIL.Image.Image:
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = PIL.Image.fromarray(rgba)
    return image if mode == "RGBA" else image.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_pil_image_survives_the_way_there_and_back(mode: str) -> None:
    image = _picture(mode)
    batch, restore = as_batch(image)
    assert batch.shape == (1, 3, 5, 7)
    assert batch.dtype == torch.uint8
    result = restore(batch)
    assert result.mode == mode
    # 35 pixels fit into a palette, so even that loses nothing.
    difference = np.subtract(np.asarray(result.convert("RGBA"), int), np.asarray(image.convert("RGBA"), int))
    assert abs(difference).max() <= (0 if mode != "P" else 8)


def test_a_transparent_palette_keeps_its_alpha_and_the_profile_stays() -> None:
    image = _picture("P")
    image.info.update(transparency=3, icc_profile=b"profile")
    image.putpixel((2, 1), 3)
    batch, restore = as_batch(image)
    result = restore(batch)
    assert result.mode == "P"
    alpha = [np.asarray(i.convert("RGBA"))[..., 3] for i in (result, image)]
    assert alpha[1][1, 2] == 0
    np.testing.assert_array_equal(*alpha)
    assert result.info == {"icc_profile": b"profile"}


def test_arrays_may_be_read_only_views_with_negative_strides() -> None:
    array = np.random.default_rng(0).random((6, 5, 3), dtype=np.float32)[::-1, :, ::-1]
    array.flags.writeable = False
    batch, restore = as_batch(array)
    np.testing.assert_array_equal(restore(batch), array)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_range_ends_at_a_tenth_outside(dtype: torch.dtype) -> None:
    batch, _ = as_batch(torch.full((3, 2, 2), 1.1, dtype=dtype))
    assert to_float(batch).max() == 1.0
    as_batch(torch.full((3, 2, 2), -0.1, dtype=dtype))
    for value in (-0.12, 1.12):
        with pytest.raises(ValueError, match=r"values in \[0,1\]"):
            as_batch(torch.full((3, 2, 2), value, dtype=dtype))


def test_nan_does_not_become_black() -> None:
    pixels = torch.tensor([0.5, float("nan")])
    with pytest.raises(ValueError, match="Expected the network to compute numbers but got NaN"):
        from_float(pixels, torch.uint8)
    assert from_float(pixels, torch.float32).isnan().tolist() == [False, True]
