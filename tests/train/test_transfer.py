"""`--init-from`: the weights and standardisation of another run, a head where the classes differ."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import Statistics, load_dataset
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.registry import MODELS
from nag_optax.train.runner import train
from nag_optax.train.spec import load_spec, resolve
from nag_optax.train.trained import evaluate, load
from nag_optax.train.transfer import starting_weights
from tests.train.conftest import SMALL, output
from tests.train.test_run import Signals, assert_same_run


def loop_of(**fields) -> Loop:
    spec = resolve(dataclasses.replace(SMALL, **fields))
    return Loop(spec, load_dataset(spec), jax.devices()[:1])


def test_the_weights_are_those_to_evaluate_with_the_head_of_the_same_classes(finished_run):
    lines = []
    loop = loop_of(seed=1)
    weights, _ = starting_weights(finished_run, loop, jax.devices()[:1], lines.append)
    summary = json.loads((finished_run / "summary.json").read_text())
    state = loop.init(weights)
    metrics = loop.evaluate(state, loop.dataset.test)
    assert (metrics.accuracy, metrics.loss) == (summary["test_accuracy"], summary["test_loss"])
    assert lines == [
        f"starting from {finished_run}, step 69, with its head; images are standardised as there"
    ]


def test_other_classes_take_a_new_head(finished_run):
    lines = []
    loop = loop_of(classes="5-9", seed=1)
    (params, _), _ = starting_weights(finished_run, loop, jax.devices()[:1], lines.append)
    fresh = loop.init().params
    np.testing.assert_array_equal(params["head"]["kernel"], fresh["head"]["kernel"])
    assert not np.allclose(params["hidden"]["kernel"], fresh["hidden"]["kernel"])
    assert "with a new head, for other classes" in lines[0]


@pytest.mark.exhaustive
def test_as_many_other_classes_take_a_new_head_too(tmp_path, console):
    train(dataclasses.replace(SMALL, classes="0-4", num_epochs=1, run_dir=tmp_path / "low"), console)
    for classes, same in (("5-9", False), ("4,0-3", True)):
        loop = loop_of(classes=classes, seed=1)
        (params, _), _ = starting_weights(tmp_path / "low", loop, jax.devices()[:1], lambda line: None)
        kernel = loop.init().params["head"]["kernel"]
        assert np.array_equal(params["head"]["kernel"], kernel) is not same


def fine_tuned(finished_run, folder) -> Options:
    return dataclasses.replace(
        SMALL, init_from=finished_run, classes="5-9", freeze=("hidden/kernel",), seed=2, run_dir=folder
    )


def test_a_fine_tuned_run_keeps_the_standardisation_and_needs_its_source_no_more(
    finished_run, tmp_path, console, monkeypatch
):
    source = tmp_path / "source"
    shutil.copytree(finished_run, source)
    monkeypatch.setitem(MODELS, "mlp", MODELS["mlp"]._replace(steps_per_report=5))
    options = fine_tuned(source, tmp_path / "whole")
    summary = train(options, console)
    assert summary["init_from"] == str(source) and summary["frozen_parameters"] == 64 * 128
    assert summary["test_accuracy"] > 0.85
    assert load_spec(tmp_path / "whole" / "config.json") == resolve(options)
    assert "8,192 frozen" in output(console)

    everything = load_dataset(resolve(SMALL))
    half = load_dataset(resolve(options))
    facts = Checkpoints(tmp_path / "whole" / "checkpoints").data_facts()
    assert facts is not None and facts["classes"] == [5, 6, 7, 8, 9]
    kept = Statistics.of(facts)
    np.testing.assert_array_equal(kept.mean, everything.statistics.mean)
    np.testing.assert_array_equal(kept.std, everything.statistics.std)
    assert abs(float(half.statistics.mean[0]) - float(everything.statistics.mean[0])) > 1e-3

    # Stopped before the first epoch has ended, and resumed when the source is gone.
    broken = dataclasses.replace(options, run_dir=tmp_path / "broken")
    Signals(monkeypatch, after=1, number=2)
    with pytest.raises(Interrupted):
        train(broken, console)
    newest, first = Checkpoints(tmp_path / "broken" / "checkpoints").steps()
    assert (newest < 12, first) == (True, 0)
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / str(newest))
    shutil.rmtree(source)
    train(dataclasses.replace(broken, resume=True), console)
    assert f"resuming {tmp_path / 'broken'} from step 0" in output(console)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")

    # The run's standardisation is used, and predictions are labels of the files.
    pixels, labels = load_digits(return_X_y=True)
    results = evaluate(EvaluateOptions(tmp_path / "whole"), console)
    assert (results["test_loss"], results["train_loss"]) == (summary["test_loss"], summary["train_loss"])
    trained = load(tmp_path / "whole")
    classes = trained.predict(pixels.reshape(-1, 8, 8)[labels >= 5]).argmax(1)
    predictions = np.array(list(map(int, trained.class_names)))[classes]
    correct = sum(
        round(results[f"{split}_accuracy"] * len(getattr(half, split).labels)) for split in ("train", "test")
    )
    assert (predictions == labels[labels >= 5]).sum() == correct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "cnn"}, "--init-from .*: holds --model mlp; this run has cnn"),
        ({"image_size": 12}, "was trained on images of 8 x 8 x 1; these are 12 x 12 x 1; --image-size 8 may"),
        ({"freeze": ("conv1",)}, "--freeze conv1: matches no parameter; the parameters are head/bias, "),
    ],
)
def test_what_does_not_fit_is_refused_before_the_folder_is_touched(
    finished_run, tmp_path, console, change, message
):
    options = dataclasses.replace(SMALL, init_from=finished_run, run_dir=tmp_path / "run", **change)
    with pytest.raises(InputError, match=message):
        train(options, console)
    assert not (tmp_path / "run").exists()


def test_a_source_that_holds_no_run_is_refused(finished_run, tmp_path, console):
    options = dataclasses.replace(SMALL, init_from=tmp_path / "x", run_dir=tmp_path / "run")
    with pytest.raises(InputError, match="^--init-from .*x/config.json: no such file"):
        train(options, console)
    (tmp_path / "x").mkdir()
    shutil.copy(finished_run / "config.json", tmp_path / "x")
    with pytest.raises(InputError, match="--init-from .*x: holds no complete checkpoint"):
        train(options, console)
