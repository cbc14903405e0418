"""The best epoch, the reasons to stop, and a longer run."""

import dataclasses
import json

import numpy as np
import pytest

from nag_optax.train.data import load_dataset
from nag_optax.train.errors import InputError
from nag_optax.train.metrics import best_row, stop_reason
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.rows import Split
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve
from nag_optax.train.trained import evaluate
from tests.train.conftest import SMALL, output
from tests.train.test_run import assert_same_run, rows_of, summary_of


def rows(*accuracies: float | None) -> list[dict]:
    return [{"epoch": i + 1, "validation_accuracy": a} for i, a in enumerate(accuracies)]


@pytest.mark.parametrize(
    ("accuracies", "target", "patience", "reason"),
    [
        ((), 0.1, 1, None),
        ((None, None), 0.1, 1, None),
        ((0.5, 0.6, 0.7), 0.8, 1, None),
        ((0.5, 0.8), 0.8, None, "validation accuracy 80.00% in epoch 2 reaches the target, 0.8"),
        ((0.5, 0.5), None, 1, "validation accuracy 50.00% in epoch 1 is still the best after 1 more epoch"),
        (
            (0.5, 0.7, 0.6, 0.7),
            None,
            2,
            "validation accuracy 70.00% in epoch 2 is still the best after 2 more epochs",
        ),
        ((0.5, 0.7, 0.6), None, 2, None),
        ((0.5, 0.7, 0.6), None, None, None),
    ],
)
def test_a_run_stops_at_its_target_or_when_its_patience_ends(accuracies, target, patience, reason):
    assert stop_reason(rows(*accuracies), target, patience) == reason
    best = best_row(rows(*accuracies))
    measured = [a for a in accuracies if a is not None]
    assert (None if best is None else best["validation_accuracy"]) == max(measured, default=None)


def test_the_validation_part_is_fixed_and_no_image_of_it_is_trained_on():
    def images(**fields):
        dataset = load_dataset(resolve(Options(model="mlp", **fields)))
        splits = (dataset.train, dataset.validation or Split((), ()))
        return dataset, [{image.tobytes() for image in split.images} for split in splits]

    whole, (every, nothing) = images()
    dataset, (train_images, held_out) = images(validation=0.25)
    assert not nothing and dataset.validation is not None
    assert len(dataset.validation.labels) == round(0.25 * 1437) == 1437 - len(dataset.train.labels)
    assert train_images | held_out == every and not train_images & held_out
    assert images(validation=0.25, seed=1)[1] == [train_images, held_out]
    assert len(images(validation=0.9999)[0].train.labels) == 1
    assert dataset.digest == whole.digest
    np.testing.assert_allclose(dataset.statistics.mean, dataset.train.images.mean((0, 1, 2)), rtol=1e-6)


def test_a_run_that_stops_says_why_and_its_best_checkpoint_is_the_one_to_evaluate(tmp_path, console):
    options = dataclasses.replace(
        SMALL, num_epochs=60, validation=0.2, patience=3, learning_rate=0.2, run_dir=tmp_path / "run"
    )
    summary = train(options, console)
    found = rows_of(tmp_path / "run")
    best = max(found, key=lambda row: row["validation_accuracy"])
    assert summary["epochs"] == len(found) == best["epoch"] + 3 < 60
    assert (summary["best_epoch"], summary["best_validation_accuracy"]) == (
        best["epoch"],
        best["validation_accuracy"],
    )
    assert summary["stopped"].endswith("is still the best after 3 more epochs")
    assert f"stopped after epoch {len(found)}: {summary['stopped']}" in output(console)
    evaluated = evaluate(EvaluateOptions(tmp_path / "run"), console)
    for name in ("test_accuracy", "test_loss", "validation_accuracy", "validation_loss"):
        assert evaluated[name] == best[name]
    assert evaluated["test_loss"] != summary["test_loss"]
    assert train(dataclasses.replace(options, resume=True), console) == summary
    assert f"is finished already: {summary['stopped']}" in output(console)


@pytest.mark.exhaustive
def test_more_epochs_make_a_run_longer_as_if_it_had_been_so_from_the_start(tmp_path, console):
    """With a constant rate. Any other schedule follows the new length from there on."""
    options = dataclasses.replace(SMALL, schedule="constant", warmup_epochs=0.0, validation=0.1)
    whole = dataclasses.replace(options, num_epochs=3, run_dir=tmp_path / "whole")
    train(whole, console)
    parts = dataclasses.replace(options, run_dir=tmp_path / "parts")
    train(dataclasses.replace(parts, num_epochs=2), console)
    assert summary_of(tmp_path / "parts")["stopped"] is None
    with pytest.raises(InputError, match="--num-epochs 1: .*parts has 2 already; take more"):
        train(dataclasses.replace(parts, num_epochs=1, resume=True), console)
    assert json.loads((tmp_path / "parts" / "config.json").read_text())["num_epochs"] == 2
    train(dataclasses.replace(parts, num_epochs=3, resume=True), console)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")
