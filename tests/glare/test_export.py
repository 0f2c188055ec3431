from __future__ import annotations

import dataclasses
import math
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detection import enhancer
from glare import GLARE, GLAREEnhance
from glare import weights as glare_weights
from glare.cli import main
from glare.export import _averages, _Network, to_onnx
from tests.glare.conftest import SMALL, randomise
from tests.glare.test_joined import DETECTOR, write
from tests.scripts import load_script

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

#: Every part that has another form in the file, and codes that take two blocks and do not fill them.
PLAIN = dataclasses.replace(
    SMALL,
    attention_grid=4,
    level_attention=False,
    codes=300,
    warp_channels=4,
    latent_limit=8.0,
    flow_levels=1,
)
CONFIG = dataclasses.replace(PLAIN, stem=2, narrow_up=True, warp_levels=(2,), detail_channels=4)


@pytest.fixture(scope="module")
def network() -> GLARE:
    torch.manual_seed(0)
    model = GLARE(CONFIG)
    randomise(model)
    return model.eval()


@pytest.fixture(scope="module")
def folder(network: GLARE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return glare_weights.save(network, tmp_path_factory.mktemp("weights"), dtype=torch.float32).parent


@pytest.fixture(scope="module")
def file(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the command line."""
    path = tmp_path_factory.mktemp("onnx") / "sub" / "network.onnx"
    assert main(["export", "--onnx", str(path), "--weights", str(folder)]) == 0
    return path


def run(file: Path, low: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    image: np.ndarray = session.run(["image"], {"low": low.numpy()})[0]
    return image


# The least, smaller than the grid, odd, and large enough that the cells of the grid overlap.
@pytest.mark.parametrize("size", [(9, 17), (16, 31), (21, 30), (64, 80), (47, 130)])
def test_onnxruntime_computes_the_same(network: GLARE, file: Path, size: tuple[int, int]) -> None:
    low = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(low).clamp(0, 1).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(run(file, low), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("how", "most", "mean"),
    # As it chooses, it computes in bfloat16 where a processor has that, and at a few places another code is found.
    [({"INFERENCE_PRECISION_HINT": "f32"}, 1e-3, 1e-4), ({}, 0.5, 0.02)],
    ids=["f32", "as it chooses"],
)
def test_openvino_computes_the_same(
    how: dict[str, str], most: float, mean: float, network: GLARE, file: Path
) -> None:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(str(file), "CPU", how)
    for size in ((9, 17), (47, 130), (64, 80)):
        low = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            expected = network(low).clamp(0, 1).numpy()
        difference = np.abs(compiled({"low": low.numpy()})[0] - expected)
        assert difference.max() < most
        assert difference.mean() < mean


def test_ncnn_lacks_a_layer(file: Path, tmp_path: Path) -> None:
    """A row of docs/deploy.md that says no: where this fails, the row is to be tried anew."""
    ncnn = pytest.importorskip("ncnn", reason="needs `pip install ncnn pnnx`")
    convert = Path(sys.executable).with_name("pnnx")
    if not convert.is_file():
        pytest.skip("needs `pip install pnnx`")
    shutil.copy(file, tmp_path / "n.onnx")
    subprocess.run(
        [convert, "n.onnx", "inputshape=[1,3,64,64]"], cwd=tmp_path, check=True, capture_output=True
    )
    layers = {line.split()[0] for line in (tmp_path / "n.ncnn.param").read_text().splitlines()[2:]}
    assert "GatherND" in layers
    assert ncnn.Net().load_param(str(tmp_path / "n.ncnn.param")) != 0


def test_executorch_computes_the_same(tmp_path: Path) -> None:
    """For one size, of a network without a stem, as the packaged weights are."""
    exir = pytest.importorskip("executorch.exir", reason="needs `pip install executorch`")
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.runtime import Runtime

    torch.manual_seed(0)
    model = GLARE(PLAIN)
    randomise(model)
    network = _Network(model.to(memory_format=torch.channels_last), 1.0, False).eval()
    low = torch.rand(1, 3, 64, 80, generator=torch.Generator().manual_seed(2))
    program = torch.export.export(network, (low,))
    lowered = exir.to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (tmp_path / "network.pte").write_bytes(lowered.buffer)
    (image,) = Runtime.get().load_program(tmp_path / "network.pte").load_method("forward").execute([low])
    torch.testing.assert_close(image, network(low), rtol=0, atol=1e-3)


def test_the_script_that_times_runtimes(
    folder: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    command = f"runtimes.py {file} --weights {folder} --size 24 36 --runs 2"
    monkeypatch.setattr("sys.argv", command.split())
    threads = torch.get_num_threads()
    try:
        load_script("runtimes").main()
    finally:
        torch.set_num_threads(threads)
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].split()[0] for row in rows] == ["ONNX", "OpenVINO", "OpenVINO"]
    assert all(float(row[3]) <= 1e-3 for row in rows[:2])
    assert float(rows[0][4]) == 1
    assert all(float(row[4]) > 0 for row in rows)


def test_the_file_is_opset_20_whole_and_tells_nothing_of_this_machine(file: Path) -> None:
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    operators = {node.op_type for node in model.graph.node}
    assert "GridSample" in operators
    assert "DeformConv" not in operators  # which ONNX Runtime before 1.25, OpenVINO and ncnn do not have
    assert sorted(path.name for path in file.parent.iterdir()) == ["network.onnx"]
    assert b".py" not in file.read_bytes()


def test_an_enhancer_in_front_of_a_detector(folder: Path, file: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 60, (21, 34, 3), dtype=np.uint8)
    enhanced = enhancer(f"onnx:{file}")(photo)
    difference = np.abs(enhanced.astype(int) - GLAREEnhance(folder)(photo))
    assert difference.max() <= 1  # where both are half way between two values
    assert difference.mean() < 0.01


def test_other_precisions_are_refused(network: GLARE, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`dtype`.*bfloat16"):
        to_onnx(network, tmp_path / "a.onnx", dtype=torch.bfloat16)


def test_half_precision_and_a_detector_behind_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = GLARE(PLAIN).eval()
    randomise(network)
    folder = glare_weights.save(network, tmp_path / "weights", dtype=torch.float32).parent
    half, finder = tmp_path / "half.onnx", write(DETECTOR, tmp_path / "detector.onnx")
    words = f"--weights {folder} --dtype float16 --fidelity 0.5 --detector {finder}"
    assert main(["export", "--onnx", str(half), *words.split()]) == 0
    low = torch.rand(1, 3, 40, 52, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected, other = (network(low, fidelity=f).clamp(0, 1).numpy() for f in (0.5, 1.0))
    # A position where two codes are about equally near may take the other one.
    difference = np.abs(run(half, low) - expected).mean()
    assert difference < 2e-3
    assert np.abs(expected - other).mean() > 2 * difference  # the fidelity is in the file
    sizes = Counter()
    for tensor in onnx.load(half).graph.initializer:
        sizes[tensor.data_type] += math.prod(tensor.dims)
    assert [value.name for value in onnx.load(half).graph.output] == ["image", "boxes"]
    assert sizes[onnx.TensorProto.FLOAT16] > sizes[onnx.TensorProto.FLOAT] > 0
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7, 8, 13, 61])
def test_averages_onto_a_grid(size: int) -> None:
    x = torch.rand(2, 1, size)
    matrix, counts = _averages(size, 4)
    expected = F.adaptive_avg_pool1d(x, min(size, 4))
    torch.testing.assert_close((x @ matrix.T)[..., counts], expected)


def test_a_wrong_fidelity_leaves_no_file(network: GLARE, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`fidelity` to be in \[0, 2\] but got 3"):
        to_onnx(network, tmp_path / "network.onnx", fidelity=3.0)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(network: GLARE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"glare-torch\[onnx\]"):
        to_onnx(network, tmp_path / "network.onnx")


def test_compiles_in_one_graph(network: GLARE) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    for size in ((16, 24), (21, 30)):  # the second size is compiled for any other
        low = torch.rand(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(low), network(low), rtol=0, atol=1e-4)
