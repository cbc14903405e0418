"""What the comparison's tests share: Flax's promotion, a small comparison that is finished."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from nag_optax.compare import compare
from nag_optax.compare.spec import CompareOptions


@pytest.fixture(autouse=True)
def _flax_promotes(standard_promotion):
    """Flax and Optax's schedules mix dtypes."""


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn and not rendered, which takes most of a small comparison's time."""
    monkeypatch.setattr("nag_optax.plot.style.save", lambda *_, **__: None)


SMALL = CompareOptions(
    optimizers=("nag", "adam"), learning_rates=(0.03, 1e30), seeds=2, num_epochs=1, batch_size=128
)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of SMALL and what was printed; nag diverges at its higher learning rate."""
    import dataclasses

    import jax

    folder = tmp_path_factory.mktemp("compared") / "comparison"
    console = Console(file=io.StringIO(), width=80)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        compare(dataclasses.replace(SMALL, run_dir=folder), console)
    assert isinstance(console.file, io.StringIO)
    return folder, console.file.getvalue()
