"""Folders and buckets by a Ray cluster: ``glare enhance s3://night s3://day --engine ray``.

Names alone travel through Ray Data. A worker fetches a block of files, has `enhance_files` enhance them, and puts the
results in their places. Where a worker dies, Ray gives its block to another one.
"""

from __future__ import annotations

import contextlib
import glob
import io
import itertools
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from glare.batch import READ_SUFFIXES, Enhance, enhance_files, find_jobs, written_as
from glare.files import whole_file
from glare.transform import GLAREEnhance

UrlJob: TypeAlias = tuple[str, str]
"""Which file becomes which, as URLs that fsspec reads, or as paths."""

_BLOCK = 32  # files that a worker takes at once, and that are done again where it dies
# Of a block, and then of each of its files. Ray's default, for ever, goes in a circle where a file kills its worker.
_RETRIES = 1
_THREADS = 8  # of a worker, that fetch and put: a store answers late, but many at once


def is_url(name: str | os.PathLike[str]) -> bool:
    """Tell whether this is a URL, such as ``s3://bucket/folder``, and not a path.

    >>> is_url("s3://night"), is_url("night/1.jpg")
    (True, False)
    """
    return "://" in os.fspath(name)


def find_url_jobs(inputs: Sequence[str], output: str) -> list[UrlJob]:
    """Return which file becomes which, where inputs or the output may be URLs.

    Args:
        inputs: files, folders and patterns, as for `find_jobs`; the tree below a folder, or below the part of a pattern
            without wildcards, is kept.
        output: a folder, whose bucket exists.

    Raises:
        FileNotFoundError: if an input or the bucket of the output is not there, or a pattern fits nothing.
        ValueError: if there is nothing to enhance, ``output`` is an input, or two files would become the same.
        ImportError: if fsspec lacks the package that reads such URLs, such as s3fs.
    """
    if not any(map(is_url, (*inputs, output))):
        found = find_jobs(inputs, Path(output))
        return [(str(source.absolute()), str(target.absolute())) for source, target in found]
    store, folder = _open(output)
    _check_bucket(store, folder)
    jobs: dict[str, str] = {}
    for name in inputs:
        for source, relative in _files_at(name):
            url = store.unstrip_protocol(f"{folder.rstrip('/')}/{written_as(Path(relative)).as_posix()}")
            if source == url:
                raise ValueError(f"Expected OUT to be another folder than IN but {source} lies in both.")
            if jobs.setdefault(url, source) != source:
                raise ValueError(f"Both {jobs[url]} and {source} would become {url}: rename one of them.")
    return [(source, url) for url, source in jobs.items()]


def _open(url: str) -> tuple[Any, str]:
    """Return fsspec's file system of a URL or path, and the name in it."""
    import fsspec.implementations.memory

    if url.startswith(("http://", "https://")):
        raise ValueError(f"Expected a folder or a bucket but got {url}: the web lists no files.")
    try:
        store, name = fsspec.core.url_to_fs(url)
    except ValueError as error:  # an unknown protocol
        raise ValueError(f"Expected a folder or a URL that fsspec reads but got {url}: {error}") from error
    if isinstance(store, fsspec.implementations.memory.MemoryFileSystem):
        raise ValueError(
            f"Expected a store that all workers share but got {url}: each has a memory of its own."
        )
    return store, str(name)


def _check_bucket(store: Any, name: str) -> None:
    top = name.split("/")[0] or "/"
    url = store.unstrip_protocol(top)
    store.invalidate_cache()  # of what was there at an earlier call
    try:
        if not store.exists(top):
            store.info(top)  # tells why, which `exists` does not
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No such bucket or folder: {url}") from error
    except Exception as error:  # what stores raise is no closed list
        raise OSError(f"{url} cannot be reached: {error}") from error


def _files_at(name: str) -> Iterator[tuple[str, str]]:
    """Yield the URL of each file that ``name`` stands for, and its name below the folder whose tree is kept."""
    store, path = _open(name)
    _check_bucket(store, path)
    if glob.has_magic(path):
        parts = itertools.takewhile(lambda part: not glob.has_magic(part), path.split("/"))
        root, found = "/".join(parts), sorted(store.glob(path))
    elif store.isfile(path):
        root, found = path.rpartition("/")[0], [path]
    else:
        root, found = path.rstrip("/"), sorted(store.find(path))
        if not found:
            raise FileNotFoundError(f"No such file or folder, or nothing in it: {name}")
    files = [
        file
        for file in map(PurePosixPath, found)
        if file.suffix.lower() in READ_SUFFIXES and not file.name.startswith("._")
    ]
    if not files:
        raise ValueError(f"No images in {name}: looked for {', '.join(sorted(READ_SUFFIXES))}.")
    for file in files:
        yield store.unstrip_protocol(str(file)), str(file.relative_to(root))


def enhance_on_ray(
    enhance: Enhance, jobs: Sequence[UrlJob], *, batch: int = 1, resume: bool = False, steady: bool = True
) -> list[str]:
    """Enhance files on the Ray cluster that ``RAY_ADDRESS`` names or this machine belongs to; else on this machine.

    Each worker has one GPU where the cluster has any, else one core. Every machine needs this package, the weights
    under the same name, and the right to read and write the store.

    Args:
        enhance: the transform, such as `GLAREEnhance`; it is pickled.
        jobs: which file becomes which, see `find_url_jobs`.
        batch: images of the same size, or frames, that go through the network together.
        resume: leave alone what is there already. A place shows whole files alone, so none is opened to see.
        steady: let videos not flicker, as for `enhance_files`.

    Returns:
        a line for each file that failed, in the order of ``jobs``: also where every worker that took it died.

    Raises:
        ValueError: if ``batch`` is not positive.
        ImportError: without Ray.
    """
    if batch < 1:
        raise ValueError(f"Expected argument `batch` to be positive but got {batch}.")
    try:
        import ray
    except ImportError as error:
        raise ImportError('--engine ray needs Ray: pip install "glare-torch[ray]".') from error
    if not jobs:
        return []
    # Ray Data shows the traceback of each block that was lost, as an error; all of it is told at the end.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False  # there is a bar below
    context.max_errored_blocks = -1  # what is lost with them is taken up again, one by one
    there = ray.cluster_resources()
    on_gpus = bool(there.get("GPU"))
    workers = int(there["GPU"] if on_gpus else there.get("CPU", 1))
    faults: dict[str, str] = {}
    with tqdm(total=len(jobs), unit="file", disable=None) as bar:
        for block in (_BLOCK, 1):
            rows = [{"source": source, "target": target} for source, target in jobs if target not in faults]
            if not rows:
                break
            blocks = -(-len(rows) // block)
            with warnings.catch_warnings():
                # Of what Ray 2.64 will not take any more, which the extra leaves out.
                warnings.simplefilter("ignore")
                done = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
                    _Worker,
                    fn_constructor_args=(enhance, batch, resume, steady),
                    batch_size=block,
                    # One task, since those that wait for an actor lose a try when it dies, too (ray 2.60.0,
                    # findings/ray-data-waiting-blocks-pay-for-a-death.sh).
                    compute=ray.data.ActorPoolStrategy(
                        size=min(workers, blocks), max_tasks_in_flight_per_actor=1
                    ),
                    ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
                    num_gpus=1 if on_gpus else None,
                    num_cpus=None if on_gpus else 1,
                )
            for row in done.iter_rows():
                faults[row["target"]] = row["fault"]
                for line in filter(None, row["notes"].splitlines()):
                    tqdm.write(line, file=sys.stderr)
                bar.update()
    lost = "each worker that took it died"
    return [f"{source}: {fault}" for source, target in jobs if (fault := faults.get(target, lost))]


class _Worker:
    """An actor of Ray Data: names in, for each what went wrong and what is to be told, empty where all is well."""

    def __init__(self, enhance: Enhance, batch: int, resume: bool, steady: bool) -> None:
        import ray

        if isinstance(enhance, GLAREEnhance) and ray.get_gpu_ids():
            enhance.device = torch.device("cuda")
        self.enhance, self.batch, self.resume, self.steady = enhance, batch, resume, steady

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        notes = io.StringIO()
        with tempfile.TemporaryDirectory(prefix="glare-") as folder, ThreadPoolExecutor(_THREADS) as threads:
            files = [
                _File(str(source), str(target), Path(folder, str(number)))
                for number, (source, target) in enumerate(zip(rows["source"], rows["target"], strict=True))
            ]
            list(threads.map(lambda file: file.fetch(self.resume), files))
            jobs = [(file.here, file.there) for file in files if file.here.exists()]
            try:
                with contextlib.redirect_stderr(notes):
                    lines = enhance_files(self.enhance, jobs, batch=self.batch, steady=self.steady)
            except Exception as error:  # such as a GPU's; it ends this block and not the run
                lines = [f"{here}: {type(error).__name__}: {error}" for here, _ in jobs]
            for file in files:
                mine = [line for line in lines if line.startswith(f"{file.here}: ")]
                file.fault = file.named("; ".join(mine).removeprefix(f"{file.here}: ")) or file.fault
            list(threads.map(_File.put, files))
        told = notes.getvalue()
        for file in files:
            told = file.named(told)
        return {
            "target": [file.target for file in files],
            "fault": [file.fault for file in files],
            "notes": [told, *[""] * (len(files) - 1)],
        }


@dataclass
class _File:
    """A file on its way through a worker, in a folder of its own, since names in different folders may be equal."""

    source: str
    target: str
    folder: Path
    fault: str = ""

    @property
    def here(self) -> Path:
        return self.folder / "in" / PurePosixPath(self.source).name

    @property
    def there(self) -> Path:
        return self.folder / "out" / PurePosixPath(self.target).name

    def named(self, text: str) -> str:
        """The text with the names that the user knows."""
        return text.replace(str(self.here), self.source).replace(str(self.there), self.target)

    def fetch(self, resume: bool) -> None:
        try:
            target, name = _open(self.target)
            if not (resume and target.exists(name)):
                self.here.parent.mkdir(parents=True)
                store, name = _open(self.source)
                store.get_file(name, str(self.here))
        except Exception as error:  # what stores raise is no closed list
            self.here.unlink(missing_ok=True)
            self.fault = f"it was not read: {error}"

    def put(self) -> None:
        """Put the result in its place: a store shows it when it is whole, on a disk it is renamed."""
        if not self.there.exists():
            return
        try:
            store, name = _open(self.target)
            if "file" in store.protocol:
                with whole_file(name) as beside:
                    shutil.copyfile(self.there, beside)
            else:
                store.put_file(str(self.there), name)
        except Exception as error:
            self.fault = f"{self.target} was not written: {error}"
