"""The table: its numbers, from results written by hand."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from nag_optax.compare import report
from nag_optax.compare.report import markdown_table
from nag_optax.compare.spec import CompareOptions, resolve
from nag_optax.train.registry import DATASETS

BEST = {"learning_rate": 0.1, "diverged": False, "validation_loss": [0.1, 0.2, 0.3]}
CHOSEN = {
    "diverged": False,
    "train_loss": [1e-3, 3e-3, 2e-3],
    "test_accuracy": [0.97, 0.98, 0.99],
    "steps_to_target": [100, 200, 300],
}
RESULT = {
    "name": "nag",
    "label": "NAG",
    "best": 0,
    "note": "",
    "state_bytes_per_parameter": 4.00083,
    "seconds_per_step": 5e-4,
    "trials": [BEST],
    "chosen": CHOSEN,
}
TARGET = 0.97


def row(**changes):
    (cells,) = report.rows(TARGET, [RESULT | changes])[1]
    return dict(zip(report.rows(TARGET, [])[0], cells, strict=True))


def test_a_row_holds_means_deviations_and_costs():
    assert row() == {
        "optimizer": "NAG",
        "learning rate": "0.1",
        "validation loss": "2.0e-01 ± 1e-01",
        "test accuracy, %": "98.00 ± 1.00",
        "training loss": "2.0e-03 ± 1e-03",
        "steps to 0.97": "200 ± 100",
        "seconds to 0.97": "0.1",
        "ms a step": "0.5",
        "state, bytes a parameter": "4",
    }


def test_a_loss_within_rounding_is_a_bound():
    assert row(chosen=CHOSEN | {"train_loss": [0.0, 0.0, 1e-9]})["training loss"] == "< 1e-8"


def test_seeds_that_miss_the_target_are_counted():
    cells = row(chosen=CHOSEN | {"steps_to_target": [100, None, 300]})
    assert cells["steps to 0.97"] == "200 ± 141 (2/3)" and cells["seconds to 0.97"] == "0.1"
    cells = row(chosen=CHOSEN | {"steps_to_target": [None, None, None]})
    assert cells["steps to 0.97"] == cells["seconds to 0.97"] == "–"


def test_what_diverged_is_said():
    cells = row(best=None, chosen=None, note="diverged at every learning rate tried")
    assert cells["training loss"] == "diverged" and cells["learning rate"] == "–"
    cells = row(chosen=CHOSEN | {"diverged": True, "train_loss": [None, 1.0, 1.0]})
    assert cells["training loss"] == "diverged" and cells["learning rate"] == "0.1"
    assert report.notes([RESULT, RESULT | {"note": "it diverged"}]) == ["NAG: it diverged."]


def test_one_seed_has_no_deviation():
    assert report.spread([0.5], ".2f") == "0.50"


def test_markdown_is_padded_and_the_terminal_needs_80_columns():
    head, body = report.rows(TARGET, [RESULT | {"label": "heavy-ball momentum"}])
    lines = markdown_table(head, body).splitlines()
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert lines[1].startswith("| ---") and lines[1].endswith("-: |")
    console = Console(file=io.StringIO(), width=80)
    console.print(report.rich_table("A title", head, body))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "2.0e-03±1e-03" in text and "heavy-ball momentum" in text and "…" not in text


@pytest.mark.parametrize(("gap", "shown"), [(1.5e-7, "1.5e-07"), (1e-130, "< 1e-15")])
def test_a_row_of_a_problem(gap, shown):
    trial = {"learning_rate": 0.0123456, "final_gap": gap, "steps_to_gap": {"0.001": 43, "1e-06": None}}
    _, (cells,) = report.rows(None, [{"label": "NAG", "best": 0, "trials": [trial]}])
    assert cells == ["NAG", "0.0123", "43", "–", shown]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, ""),
        ({"problem": "rosenbrock", "num_steps": 7}, "--problem rosenbrock --num-steps 7"),
        (
            {"dataset": "mnist", "data_dir": Path("/d"), "model": "cnn"},
            "--dataset mnist --data-dir /d --model cnn",
        ),
        (
            {"dataset": "folder", "data_dir": Path("/d"), "image_size": 8},
            "--dataset folder --data-dir /d --image-size 8",
        ),
        ({"dataset": "m:own", "skip_unreadable": True}, "--dataset m:own --skip-unreadable"),
        (
            {"optimizers": ("nag", "adam"), "learning_rates": (0.1, 0.3), "seeds": 2},
            "--optimizers nag adam --learning-rates 0.1 0.3 --seeds 2",
        ),
    ],
)
def test_the_command_makes_the_comparison_again(fields, line):
    from nag_optax.cli import parse

    spec = resolve(CompareOptions(**fields))
    words = report.command(spec.to_dict()).split()
    assert " ".join(words) == f"nag-optax compare {line}".strip()
    parsed = parse(words[1:])
    assert isinstance(parsed, CompareOptions) and resolve(parsed) == spec


@pytest.mark.parametrize("dataset", [name for name, row in DATASETS.items() if row.data_dir])
def test_the_command_of_stored_results_names_the_folder_that_they_do_not_hold(dataset):
    config = json.loads(resolve(CompareOptions(dataset=dataset, data_dir=Path("/d"))).to_json())
    del config["data_dir"]
    assert report.command(config) == f"nag-optax compare --dataset {dataset} --data-dir DIR"
