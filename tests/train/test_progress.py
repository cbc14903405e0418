"""What a run prints."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from nag_optax.train import progress
from nag_optax.train.progress import LiveBar, epoch_line, summary_table
from tests.train.conftest import output


def test_the_line_of_an_epoch_fits_a_terminal():
    row = {"epoch": 100, "train_loss": 1.2e-12, "train_accuracy": 1.0, "seconds": 123.45}
    assert epoch_line({**row, "validation_accuracy": None, "test_accuracy": 0.5}, 100) == (
        "epoch 100/100  loss 1.2e-12  train 100.00%  test  50.00%  123.45 s"
    )
    widest = epoch_line({**row, "validation_accuracy": 1.0, "test_accuracy": 1.0}, 100)
    assert "  val 100.00%  test 100.00%" in widest and len(widest) <= 80


@pytest.mark.parametrize(
    ("speed", "line"), [(311.6, "312 steps/s"), (1.44, "1.4 steps/s"), (0.22, "0.22 steps/s")]
)
def test_a_large_model_takes_less_than_a_step_a_second(speed, line, console):
    numbers = {"steps_per_second": speed, "seconds_per_epoch": 1, "compile_seconds": 1, "wall_seconds": 1}
    console.print(summary_table(numbers | {"parameters": 1, "steps": 1}, "runs/x [y]"))
    assert line in output(console) and "│ runs/x [y]" in output(console)


@pytest.mark.parametrize("dumb", [False, True])
def test_a_long_run_without_a_live_terminal_says_once_a_minute_how_far_it_is(monkeypatch, dumb):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now.seconds))
    # A terminal that cannot move its cursor, as in an editor.
    if dumb:
        monkeypatch.setenv("TERM", "dumb")
    console = Console(file=io.StringIO(), width=200, force_terminal=dumb)
    with LiveBar(console, "", total=200) as bar:
        for step in range(0, 200, 10):
            now.seconds += 5
            bar.update(bar.task, completed=step, description="epoch 1/2")
    assert output(console).splitlines() == ["compiling", "epoch 1/2: 60 %"]
