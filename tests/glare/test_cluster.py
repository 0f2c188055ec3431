"""A Ray cluster of two nodes on this machine, and a bucket of moto's server: the real Ray, the real S3 client."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from glare.batch import enhance_files, find_jobs
from glare.cli import main
from glare.cluster import _Worker, enhance_on_ray, find_url_jobs
from glare.transform import GLAREEnhance

boto3 = pytest.importorskip("boto3", reason="needs the extra test")
ray = pytest.importorskip("ray", reason="needs the extra ray")
moto_server = pytest.importorskip("moto.server", reason="needs the extra test")
cluster_utils = pytest.importorskip("ray.cluster_utils")


@pytest.fixture(scope="module")
def bucket() -> Iterator[SimpleNamespace]:
    """An empty bucket ``night`` and another one, ``day``."""
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        # Where every S3 client, those of the cluster's workers too, looks.
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="night")
        client.create_bucket(Bucket="day")
        yield client
    server.stop()


@pytest.fixture(scope="module")
def cluster(bucket: SimpleNamespace) -> Iterator[None]:
    """Two nodes of one core each; the bucket's address is in their environment."""
    try:
        nodes = cluster_utils.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8}
        )
        nodes.add_node(num_cpus=1, object_store_memory=10**8)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, TimeoutError) as error:  # where ports or shared memory are forbidden
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield
    ray.shutdown()
    nodes.shutdown()


def photograph(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 40, (40, 48, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


class Deadly:
    """GLARE, whose process is killed: once when some files are done, and by a white picture always."""

    def __init__(self, killed: Path, done: Path) -> None:
        self.killed, self.done, self.enhance = killed, done, GLAREEnhance()

    def __call__(self, pixels: Tensor) -> Tensor:
        with self.killed.with_name("nodes").open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()}\n")
        once = not self.killed.exists() and any(self.done.rglob("*.png"))
        if once or bool((pixels == 255).all()):
            with self.killed.open("a") as file:
                file.write("killed\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return self.enhance(pixels)


def test_every_file_is_there_once_whole_and_the_same_though_workers_are_killed(
    cluster: None, tmp_path: Path
) -> None:
    night, day, alone = (tmp_path / name for name in ("night", "day", "alone"))
    for number in range(40):  # names in different folders are equal
        photograph(night / f"{number % 2}" / f"{number // 2}.png", number)
    jobs = find_jobs([str(night)], alone)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has
    try:
        assert enhance_files(GLAREEnhance(), jobs) == []
    finally:
        torch.set_num_threads(threads)
    PIL.Image.new("RGB", (48, 40), "white").save(night / "0" / "white.png")
    (night / "1" / "text.png").write_text("no photograph")

    killed = tmp_path / "killed"
    found = enhance_on_ray(Deadly(killed, day), find_url_jobs([str(night)], str(day)))

    assert found == [
        f"{night}/0/white.png: each worker that took it died",
        f"{night}/1/text.png: cannot identify image file '{night}/1/text.png'",
    ]
    assert len(killed.read_text().splitlines()) > 2
    assert len(set(killed.with_name("nodes").read_text().splitlines())) == 2  # both nodes worked
    written = sorted(path.relative_to(day) for path in day.rglob("*") if path.is_file())
    assert written == sorted(target.relative_to(alone) for _, target in jobs)
    for name in written:
        assert (day / name).read_bytes() == (alone / name).read_bytes()


def test_bucket_to_bucket_on_the_command_line(
    cluster: None, bucket: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    photograph(tmp_path / "one.png", 1)
    bucket.upload_file(str(tmp_path / "one.png"), "night", "street/one.png")
    bucket.upload_file(str(tmp_path / "one.png"), "night", "street/deep/two.PNG")
    bucket.put_object(Bucket="night", Key="street/text.jpg", Body=b"no photograph")
    bucket.put_object(Bucket="night", Key="street/notes.txt", Body=b"passed over")
    command = ["enhance", "s3://night/street", "s3://day/out", "--engine", "ray"]

    assert main(command) == 1
    told = capfd.readouterr().err
    assert "1 of 3 files failed:\n  s3://night/street/text.jpg: cannot identify image file" in told
    there = {one["Key"]: one["LastModified"] for one in bucket.list_objects(Bucket="day")["Contents"]}
    assert there.keys() == {"out/one.png", "out/deep/two.PNG"}
    bucket.download_file("day", "out/one.png", str(tmp_path / "day.png"))
    day = np.asarray(PIL.Image.open(tmp_path / "day.png"), float)
    expected = np.asarray(GLAREEnhance()(PIL.Image.open(tmp_path / "one.png")), float)
    assert np.abs(day - expected).max() <= 1

    bucket.delete_object(Bucket="night", Key="street/text.jpg")
    bucket.delete_object(Bucket="day", Key="out/one.png")
    assert main([*command, "--resume"]) == 0
    again = {one["Key"]: one["LastModified"] for one in bucket.list_objects(Bucket="day")["Contents"]}
    assert again.keys() == there.keys()
    assert again["out/deep/two.PNG"] == there["out/deep/two.PNG"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["s3://nowhere", "s3://day"], "No such bucket or folder: s3://nowhere"),
        (["s3://night/nothing", "s3://day"], "No such file or folder, or nothing in it: s3://night/nothing"),
        (["s3://night", "s3://nowhere/out"], "No such bucket or folder: s3://nowhere"),
        (["https://example.org/night", "s3://day"], "https://example.org/night: the web lists no files"),
        (["s3://night", "memory://day"], "a store that all workers share but got memory://day"),
        (["moon://night", "s3://day"], "a URL that fsspec reads but got moon://night"),
        (["s3://night/papers", "s3://day"], "No images in s3://night/papers"),
        (["s3://night/names", "s3://day"], "would become s3://day/a.png"),
        (["s3://night/names", "s3://night/names"], "lies in both"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    command: list[str], message: str, bucket: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("papers/notes.txt", "names/a.png", "names/a.avif"):
        bucket.put_object(Bucket="night", Key=key, Body=b"")
    assert main(["enhance", *command, "--engine", "ray"]) == 1
    assert message in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    s3 = pytest.importorskip("fsspec").get_filesystem_class("s3")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens there from here on
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.clear_instance_cache()
    try:
        assert main(["enhance", "s3://night", "s3://day", "--engine", "ray"]) == 1
    finally:
        s3.clear_instance_cache()
    assert "s3://day cannot be reached: " in capsys.readouterr().err


def test_url_without_ray_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["enhance", "s3://night", "day"]) == 1
    assert "got s3://night: --engine ray reads and writes URLs" in capsys.readouterr().err


def test_patterns_and_single_files_keep_the_tree(bucket: SimpleNamespace) -> None:
    for key in ("tree/a/1.jpg", "tree/a/2.png", "tree/b/c/3.jpg", "tree/b/c/._3.jpg"):
        bucket.put_object(Bucket="night", Key=key, Body=b"")
    assert find_url_jobs(["s3://night/tree/*/*.jpg"], "s3://day/x/") == [
        ("s3://night/tree/a/1.jpg", "s3://day/x/a/1.jpg")
    ]
    assert find_url_jobs(["s3://night/tree/**/*.jpg", "s3://night/tree/a/2.png"], "s3://day") == [
        ("s3://night/tree/a/1.jpg", "s3://day/a/1.jpg"),
        ("s3://night/tree/b/c/3.jpg", "s3://day/b/c/3.jpg"),
        ("s3://night/tree/a/2.png", "s3://day/2.png"),
    ]


class TestFaultsOfAWorker:
    """What Ray's actor calls, here in this process."""

    def test_what_is_not_written_and_what_is_not_read(self, bucket: SimpleNamespace, tmp_path: Path) -> None:
        photograph(tmp_path / "night" / "here.png", 1)
        worker = _Worker(GLAREEnhance(), batch=1, resume=False, steady=True)
        rows = {
            "source": np.array([str(tmp_path / "night" / "here.png")] * 2 + ["s3://night/gone.png"]),
            "target": np.array(["/dev/full/a.png", str(tmp_path / "day" / "a.png"), "s3://day/gone.png"]),
        }
        refused, well, gone = worker(rows)["fault"]
        assert refused.startswith("/dev/full/a.png was not written: ")
        assert well == ""
        assert gone.startswith("it was not read: ")
        assert (tmp_path / "day" / "a.png").is_file()

    def test_what_a_file_loses_is_told_with_its_name(self, tmp_path: Path) -> None:
        deep = np.random.default_rng(0).integers(0, 9000, (40, 48)).astype(np.uint16)
        PIL.Image.fromarray(deep).save(tmp_path / "deep.png")
        worker = _Worker(GLAREEnhance(), batch=1, resume=False, steady=True)
        found = worker(
            {"source": [str(tmp_path / "deep.png")], "target": [str(tmp_path / "day" / "deep.png")]}
        )
        assert found["fault"] == [""]
        assert found["notes"][0].startswith(f"{tmp_path / 'deep.png'}: 16 bits")
