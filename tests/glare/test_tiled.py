"""The whole image's result, in tiles."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import skimage
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from glare import GLARE, GLAREEnhance, weights
from glare.cli import main
from glare.config import GLAREConfig
from glare.data.degrade import degrade, generator_for
from glare.layers import Upsample
from glare.tiled import enhance_tiled, spans, windows
from tests.glare.conftest import FOLDED, SMALL, randomise


def network(config: GLAREConfig) -> GLARE:
    torch.manual_seed(0)
    model = GLARE(config)
    randomise(model)
    # Results lie within [0,1], where `GLAREEnhance` cuts nothing.
    nn.init.constant_(model.fusion.decoder.conv_out.bias, 0.5)
    return model.eval()


@pytest.fixture
def pooled() -> GLARE:
    return network(dataclasses.replace(SMALL, attention_grid=4))


def night(photograph: str, height: int, width: int) -> Tensor:
    day = torch.from_numpy(getattr(skimage.data, photograph)()).movedim(-1, 0)[None, :, :height, :width]
    return degrade(day.float() / 255, exposure=0.06, generator=generator_for("tiling", photograph))


def steps(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean difference between neighbouring rows, and columns, at each place between two."""
    return image.diff(dim=2).abs().mean((0, 1, 3)), image.diff(dim=3).abs().mean((0, 1, 2))


class TestGeometry:
    @given(st.integers(1, 300), st.integers(32, 400), st.sampled_from([0, 2, 4, 8]))
    def test_every_pixel_belongs_to_one_tile(self, quarter: int, tile: int, halo: int) -> None:
        length = 4 * quarter
        owners = torch.zeros(length)
        for span in spans(length, tile, halo):
            assert span.start % 4 == span.stop % 4 == 0
            assert span.first == max(0, span.start - halo)
            assert span.last == min(length, span.stop + halo)
            assert 0 < span.stop - span.start <= tile + 3
            owners[span.start : span.stop] += 1
        assert (owners == 1).all()

    @given(st.integers(1, 300), st.integers(1, 100))
    def test_the_weights_of_windows_add_up_to_one(self, length: int, side: int) -> None:
        total = torch.zeros(length)
        for start, weight in windows(length, side):
            assert len(weight) == min(side, length)
            assert (weight > 0).all()
            total[start : start + len(weight)] += weight
        torch.testing.assert_close(total, torch.ones(length))


class TestResult:
    @pytest.mark.parametrize(("photograph", "tile"), [("coffee", 64), ("chelsea", 128)])
    @torch.no_grad()
    def test_trained_weights_on_a_photograph(self, photograph: str, tile: int) -> None:
        model = weights.load("glare-tiny").optimize()
        low = night(photograph, 150, 222)
        whole, tiled = model(low), enhance_tiled(model, low, tile)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-3)  # a code may flip
        assert (tiled - whole).abs().mean() < 1e-5
        torch.testing.assert_close(tiled.mean((0, 2, 3)), whole.mean((0, 2, 3)), rtol=1e-4, atol=0)
        # Tiles enhanced one by one differ by far more than that.
        assert (model(low[..., :tile, :tile]) - whole[..., :tile, :tile]).abs().mean() > 5e-3

    @torch.no_grad()
    def test_is_near_to_exact_arithmetic(self) -> None:
        """Nearer than the whole, whose norms add up each channel in float32 (docs/speed.md)."""
        model = weights.load("glare-tiny").optimize()
        low = night("coffee", 360, 480)
        exact = copy.deepcopy(model).double()(low.double())
        error = (enhance_tiled(model, low, 128) - exact).square().mean()
        assert -10 * error.log10() > 100

    @pytest.mark.parametrize("folded", [False, True])
    @pytest.mark.parametrize("levels", [(0,), (1,), (2,), (0, 1), (0, 2)])
    @pytest.mark.parametrize("size", [(41, 70), (3, 90), (8, 1500), (1500, 8), (150, 222)])
    @torch.no_grad()
    def test_sizes_and_levels(self, levels: tuple[int, ...], size: tuple[int, int], folded: bool) -> None:
        config = dataclasses.replace(
            FOLDED if folded else SMALL,
            attention_grid=4,
            warp_levels=levels,
            encoder_blocks=(1, 2, 1),
            decoder_blocks=(2, 2, 1),
        )
        model, low = network(config).double(), torch.rand(1, 3, *size, dtype=torch.float64) * 0.3
        whole = model(low, fidelity=1.3)
        for tile in (32, 70):
            torch.testing.assert_close(enhance_tiled(model, low, tile, 1.3), whole, rtol=0, atol=1e-9)

    @torch.no_grad()
    def test_a_warp_fetches_from_anywhere(self, pooled: GLARE) -> None:
        for warp in pooled.fusion.warp.values():
            warp.offsets.weight.mul_(30)
            nn.init.constant_(warp.offsets.bias, 20.0)
        low = torch.rand(1, 3, 96, 160) * 0.3
        whole = pooled(low)
        torch.testing.assert_close(enhance_tiled(pooled, low, 32), whole, rtol=0, atol=1e-4)
        for warp in pooled.fusion.warp.values():
            nn.init.constant_(warp.offsets.bias[: 18 * warp.groups], 0.0)
        assert (pooled(low) - whole).abs().mean() > 1e-2  # so that it matters where from

    @torch.no_grad()
    def test_full_attention_stays_within_windows_that_blend(self) -> None:
        """A random network, whose codes flip at a breath: its tone and its seams hold, its pixels cannot."""
        model, low = network(SMALL), night("chelsea", 160, 224)
        whole, tiled = model(low), enhance_tiled(model, low, 96)
        torch.testing.assert_close(tiled.mean((0, 2, 3)), whole.mean((0, 2, 3)), rtol=5e-3, atol=0)
        for ours, expected in zip(steps(tiled), steps(whole), strict=True):
            assert ours.max() < 1.1 * expected.max()

    @torch.no_grad()
    def test_bfloat16(self, pooled: GLARE) -> None:
        low = torch.rand(1, 3, 48, 64) * 0.3
        exact = pooled(low)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            whole, tiled = pooled(low).float(), enhance_tiled(pooled, low, 32).float()
        assert (tiled - exact).abs().mean() < 1.5 * (whole - exact).abs().mean()

    @torch.no_grad()
    def test_the_flow_computes_in_float32(self, pooled: GLARE) -> None:
        condition = pooled.condition(torch.rand(1, 3, 48, 64) * 0.3)
        expected = pooled.flow.inverse(condition.mean, condition.feature)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            v = condition.mean
            for step in pooled.flow.inverse_steps():
                v = step(v, condition.feature)
        torch.testing.assert_close(v, expected)

    @torch.no_grad()
    def test_neighbours_in_the_batch_and_other_threads_change_nothing(self, pooled: GLARE) -> None:
        low = torch.rand(3, 3, 36, 64) * torch.tensor([0.1, 0.3, 0.9]).view(3, 1, 1, 1)
        one_by_one = [enhance_tiled(pooled, image[None], 32) for image in low]
        assert torch.equal(enhance_tiled(pooled, low, 32), torch.cat(one_by_one))
        with ThreadPoolExecutor(3) as pool:
            together = list(pool.map(lambda image: enhance_tiled(pooled, image[None], 32), low))
        assert torch.equal(torch.cat(together), torch.cat(one_by_one))

    def test_the_model_stays_as_it_is(self, pooled: GLARE) -> None:
        before = pickle.dumps(pooled)
        enhance_tiled(pooled, torch.rand(1, 3, 32, 64), 32)
        assert pickle.dumps(pooled) == before

    def test_memory(self) -> None:
        """The peaks with tiles and without, in a process of its own whose tensors go back to the system at once."""
        code = """
import torch
from pathlib import Path
from glare import weights
from glare.tiled import enhance_tiled

def memory(name):
    status = Path("/proc/self/status").read_text()
    return int(status.split(name + ":")[1].split()[0]) * 2**10

torch.set_num_threads(1)
with torch.no_grad():
    model = weights.load("glare-tiny").optimize()
    enhance_tiled(model, torch.rand(1, 3, 32, 64), 32)
    low = torch.rand(1, 3, 384, 640) * 0.2
    start = memory("VmRSS")
    enhance_tiled(model, low, 128)
    tiled = memory("VmHWM") - start
    model(low)
    print(tiled / (memory("VmHWM") - start))
"""
        if sys.platform != "linux":
            pytest.skip("reads /proc")
        environ = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # or glibc's heap keeps what was freed
        result = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
        )
        assert float(result.stdout) < 0.7, result.stdout


class TestChoice:
    def test_auto_goes_by_memory(self, pooled: GLARE, monkeypatch: pytest.MonkeyPatch) -> None:
        low = torch.rand(2, 3, 48, 60) * 0.3
        with torch.no_grad():
            whole = pooled.optimize()(low).clamp(0, 1)
        enhance = GLAREEnhance(pooled)
        assert torch.equal(enhance(low), whole)
        monkeypatch.setattr("glare.memory.available", lambda device: 75 * 8 * 40 * 40)
        tiled = enhance(low)
        assert not torch.equal(tiled, whole)
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
        assert torch.equal(GLAREEnhance(pooled, tile=40)(low), tiled)
        assert torch.equal(GLAREEnhance(pooled, tile=None)(low), whole)
        monkeypatch.setattr("glare.memory.available", lambda device: 0)
        assert torch.equal(GLAREEnhance(pooled)(low), GLAREEnhance(pooled, tile=32)(low))
        assert torch.equal(pickle.loads(pickle.dumps(GLAREEnhance(pooled, tile=40)))(low), tiled)

    def test_auto_goes_by_speed_on_a_cpu(self, pooled: GLARE, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("glare.tiled.CPU_WHOLE_VALUES", (48 * 60 - 1) * 8)
        monkeypatch.setattr("glare.tiled.CPU_TILE_VALUES", 36 * 36 * 8)
        low = torch.rand(1, 3, 48, 60) * 0.3
        assert torch.equal(GLAREEnhance(pooled)(low), GLAREEnhance(pooled, tile=36)(low))
        assert not torch.equal(GLAREEnhance(pooled)(low), GLAREEnhance(pooled, tile=None)(low))
        # Of full attention tiles make something else.
        full = network(SMALL)
        assert torch.equal(GLAREEnhance(full)(low), GLAREEnhance(full, tile=None)(low))

    def test_images_go_together_as_memory_allows(
        self, pooled: GLARE, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        low = torch.randint(0, 80, (5, 3, 48, 60), dtype=torch.uint8)
        enhance = GLAREEnhance(pooled)
        alone = torch.stack([enhance(image) for image in low])
        together: list[int] = []
        enhance.model.register_forward_pre_hook(lambda _, given: together.append(len(given[0])))
        for limit, expected in ((2 * 48 * 60, [2, 2, 1]), (48 * 60, [1] * 5), (48 * 60 - 1, [])):
            together.clear()
            monkeypatch.setattr("glare.memory.available", lambda device, limit=limit: 75 * 8 * limit)
            result = enhance(low)
            assert together == expected
            assert (result.int() - alone.int()).abs().max() <= 1  # half way between two levels
        monkeypatch.undo()
        monkeypatch.setattr("glare.tiled.PIXELS_AT_ONCE", 3 * 48 * 60)
        enhance(low)
        assert together == [3, 2]

    def test_numpys_integers(self, pooled: GLARE) -> None:
        low = torch.rand(3, 48, 60) * 0.3
        tile: Any = np.int64(40)
        assert torch.equal(GLAREEnhance(pooled, tile=tile)(low), GLAREEnhance(pooled, tile=40)(low))

    @pytest.mark.parametrize("tile", [16, 0, -1, "all", True, 64.0])
    def test_mistakes(self, tile: object) -> None:
        with pytest.raises(ValueError, match=r"`tile`.*at least 32"):
            GLAREEnhance(tile=tile)  # type: ignore[arg-type]

    def test_a_gradient_takes_the_whole_image(self, pooled: GLARE, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("glare.memory.available", lambda device: 0)
        x = (torch.rand(3, 40, 40) * 0.3).requires_grad_()
        (ours,) = torch.autograd.grad(GLAREEnhance(pooled)(x).sum(), x)
        (expected,) = torch.autograd.grad(GLAREEnhance(pooled, tile=None)(x).sum(), x)
        assert torch.equal(ours, expected)
        enhance = GLAREEnhance(pooled, tile=32)
        assert enhance(x[:, :32, :32]).requires_grad
        with pytest.raises(ValueError, match=r"32·32 pixels.*40×40"):
            enhance(x)
        with torch.no_grad():
            torch.testing.assert_close(enhance(x), GLAREEnhance(pooled, tile=None)(x), rtol=0, atol=1e-4)

    def test_command_line(self, pooled: GLARE, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = weights.save(pooled, tmp_path / "weights").parent
        image = PIL.Image.fromarray((torch.rand(48, 40, 3) * 60).byte().numpy())
        image.save(tmp_path / "night.png")
        command = [
            "enhance",
            str(tmp_path / "night.png"),
            str(tmp_path / "day.png"),
            "--weights",
            str(folder),
        ]
        assert main([*command, "--device", "cpu", "--tile", "32"]) == 0
        expected = GLAREEnhance(folder, tile=32)(image)
        assert PIL.Image.open(tmp_path / "day.png").tobytes() == expected.tobytes()
        assert main([*command, "--tile", "7"]) == 1
        with pytest.raises(SystemExit):
            main([*command, "--tile", "wide"])
        assert "expected auto, none or an integer but got 'wide'" in capsys.readouterr().err


class Full(Upsample):
    """As if memory were exceeded above a number of positions."""

    limit = 0
    exceeded = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) * x.shape[2] * x.shape[3] > self.limit:
            self.exceeded += 1
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(x)


class TestOutOfMemory:
    @pytest.fixture
    def full(self, pooled: GLARE) -> Full:
        """Full at 88×88 pixels of the image: there is room for a tile of 48 with what it sees around itself."""
        pooled.fusion.decoder.up0.__class__ = Full
        full = pooled.fusion.decoder.up0
        assert isinstance(full, Full)
        full.limit = 44 * 44
        return full

    @pytest.mark.parametrize("tile", ["auto", 96])
    @pytest.mark.usefixtures("full")
    def test_smaller_tiles_with_one_warning(self, pooled: GLARE, tile: str | int) -> None:
        low = torch.rand(2, 3, 96, 96) * 0.3
        enhance = GLAREEnhance(pooled, tile=tile)  # type: ignore[arg-type]
        with pytest.warns(UserWarning, match=r"Out of memory on cpu with (18,432|9,216) pixels") as seen:
            result = enhance(low)
        assert len(seen) == 1
        inner = enhance.model.fusion.decoder.up0
        exceeded = inner.exceeded
        assert exceeded > 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(enhance(low), result)
        assert inner.exceeded == exceeded
        inner.limit = 128 * 128
        with torch.no_grad():
            expected = enhance.model(low).clamp(0, 1)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)

    def test_images_that_fit_alone_are_not_cut(self, pooled: GLARE, full: Full) -> None:
        low = torch.rand(3, 3, 96, 96) * 0.3
        full.limit = 48 * 48
        enhance = GLAREEnhance(pooled)
        with pytest.warns(UserWarning, match="Out of memory"):
            result = enhance(low)
        assert torch.equal(result, torch.stack([GLAREEnhance(pooled, tile=None)(image) for image in low]))

    def test_is_told_where_nothing_helps(self, pooled: GLARE, full: Full) -> None:
        low = torch.rand(1, 3, 96, 96) * 0.3
        with pytest.raises(torch.OutOfMemoryError):
            GLAREEnhance(pooled, tile=None)(low)
        full.limit = 10
        with pytest.raises(torch.OutOfMemoryError), pytest.warns(UserWarning, match="Out of memory"):
            GLAREEnhance(pooled)(low)
