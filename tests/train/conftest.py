"""What the trainer's tests share: a quiet console, a finished run, a small set in IDX format."""

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nag_optax.train.options import Options
from nag_optax.train.runner import train


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax and Optax's schedules mix dtypes."""


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def output(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


SMALL = Options(model="mlp", num_epochs=3, batch_size=64)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of SMALL's configuration; tests copy it before they change it."""
    import dataclasses

    import jax

    folder = tmp_path_factory.mktemp("finished") / "run"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        train(dataclasses.replace(SMALL, run_dir=folder), Console(file=io.StringIO()))
    return folder


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """Two classes of 6×5 images, dark and bright, gzipped and not: 64 to train, 20 to test."""
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count, end in (("train", 64, ".gz"), ("t10k", 20, "")):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 100, (count, 6, 5)) + 120 * labels[:, None, None]
        write_idx(folder / f"{prefix}-images-idx3-ubyte{end}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{end}", labels)
    return folder
