"""What the tests of a device share: an export of a short run, data, and a Python without JAX."""

import io
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from nag_optax.export.run import export_run
from nag_optax.train.options import ExportOptions, Options
from nag_optax.train.runner import train

BARE = """
import runpy, sys
sys.path.append(sys.argv[1])
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax and Optax's schedules mix dtypes."""


def quiet() -> Console:
    return Console(file=io.StringIO())


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows the digits 0 to 4, from which a device goes on."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        train(Options(model="mlp", classes="0-4", num_epochs=1, run_dir=folder), quiet())
    return folder


@pytest.fixture(scope="session")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training step for IREE; tests copy it before they change it."""
    options = ExportOptions(run_dir, "train-step", output=tmp_path_factory.mktemp("export") / "export")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return export_run(options, quiet())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits 0 to 4, as a device would have collected them."""
    from sklearn.datasets import load_digits

    (pixels, labels), path = load_digits(return_X_y=True), tmp_path_factory.mktemp("data") / "data.npz"
    known = labels < 5
    np.savez(path, images=pixels[known].astype(np.uint8).reshape(-1, 8, 8), labels=labels[known])
    return path


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts a Python that has NumPy, ml_dtypes, the IREE runtime and nothing else."""
    site = tmp_path_factory.mktemp("site")
    for name in ("numpy", "ml_dtypes", "iree-base-runtime"):
        found = distribution(name)
        for file in found.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                (site / file).symlink_to(str(found.locate_file(file)))

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        return piped([sys.executable, "-I", "-S", "-c", BARE, str(site), *map(str, arguments)], **options)

    return start


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts the Python of a new environment, which has what the page on devices tells to install."""
    environment = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    wanted = [f"{name}=={version(name)}" for name in ("numpy", "iree-base-runtime")]
    install = [python, "-m", "pip", "install", "--quiet", "--retries", "1", *wanted]
    if (done := subprocess.run(install, capture_output=True, text=True)).returncode:
        pytest.skip(f"pip cannot install two packages: {done.stderr.strip().splitlines()[-1]}")
    for package in ("jax", "nag_optax", "flax", "optax"):
        assert subprocess.run([python, "-I", "-c", f"import {package}"], stderr=subprocess.PIPE).returncode
    packages = next(environment.glob("lib/python*/site-packages"))
    device_needs = [file for file in packages.rglob("*") if file.is_file() and "pip" not in file.parts]
    assert sum(file.stat().st_size for file in device_needs) <= 160e6

    def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        return piped([str(python), "-I", *map(str, arguments)], **options)

    return start


def piped(command: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)
