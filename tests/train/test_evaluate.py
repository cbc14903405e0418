"""`nag-optax evaluate`: the run's own figures, predictions beside the file, and clear refusals."""

import json
import os
import resource
import shutil
import signal

import numpy as np
import pytest
from sklearn.datasets import load_digits

from nag_optax.train.data.idx import read_idx_pair
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.evaluate import evaluate
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.runner import train
from tests.train.conftest import output, write_idx


def test_the_accuracy_is_that_of_the_run(finished_run, console):
    results = evaluate(EvaluateOptions(finished_run), console)
    summary = json.loads((finished_run / "summary.json").read_text())
    for key in ("train_accuracy", "test_accuracy", "train_loss", "test_loss"):
        assert results[key] == summary[key]
    assert f"{summary['test_accuracy']:.2%}" in output(console) and "epoch 3 of 3" in output(console)


@pytest.mark.parametrize("with_channels", [False, True])
def test_predictions_are_written_beside_the_file(finished_run, tmp_path, console, with_channels):
    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 8, 8, 1) if with_channels else pixels.reshape(-1, 8, 8)
    np.save(tmp_path / "digits.npy", images)
    evaluate(EvaluateOptions(finished_run, predict=tmp_path / "digits.npy"), console)
    predictions = np.load(tmp_path / "digits-predictions.npy")
    summary = json.loads((finished_run / "summary.json").read_text())
    correct = 1437 * summary["train_accuracy"] + 360 * summary["test_accuracy"]
    assert (predictions == labels).sum() == round(correct)
    assert "1797 predictions written to" in output(console)


def test_predictions_that_cannot_be_written_leave_the_ones_before(finished_run, tmp_path, console):
    np.save(tmp_path / "x.npy", np.zeros((3000, 8, 8), np.uint8))
    # Once without the limit, which JAX's cache of compiled programs would meet as well.
    evaluate(EvaluateOptions(finished_run, predict=tmp_path / "x.npy"), console)
    np.save(tmp_path / "x-predictions.npy", np.arange(3))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, unlimited[1]))  # a disk that fills up
    try:
        with pytest.raises(InputError, match="x-predictions.npy: cannot be written"):
            evaluate(EvaluateOptions(finished_run, predict=tmp_path / "x.npy"), console)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    np.testing.assert_array_equal(np.load(tmp_path / "x-predictions.npy"), np.arange(3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((3, 9, 9)), r"has shape \(3, 9, 9\); must be \(N, 8, 8, 1\) or \(N, 8, 8\)"),
        (np.zeros((3, 8, 8, 3)), r"must be \(N, 8, 8, 1\)"),
        (np.zeros((0, 8, 8)), "holds no images"),
        (np.full((2, 8, 8), 1e300), "no finite float32"),
        (np.ones((2, 8, 8), bool), "integers or floats"),
        (np.full((3, 8, 8), np.nan), "no finite float32"),
        (np.array([["a"]]), "must hold one array of numbers, integers or floats"),
        (np.array([None, 1]), "is no .npy file; it must be an array that numpy.save wrote, of images"),
        (b"\x89PNG\r\n\x1a\n", r"that numpy.save wrote, of images \(N, height, width\) or \(N, height"),
        (b"", "is no .npy file"),
        (None, "cannot be read .*No such file"),
    ],
)
def test_what_cannot_be_predicted_is_refused(finished_run, tmp_path, console, content, message):
    path = tmp_path / "x.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(InputError, match=message) as raised:
        evaluate(EvaluateOptions(finished_run, predict=path), console)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    assert "pickle" not in str(raised.value)
    assert not (tmp_path / "x-predictions.npy").exists()


def test_a_folder_without_a_run_is_refused(tmp_path, console, finished_run):
    with pytest.raises(InputError, match="config.json: no such file"):
        evaluate(EvaluateOptions(tmp_path), console)
    shutil.copy(finished_run / "config.json", tmp_path)
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        evaluate(EvaluateOptions(tmp_path), console)


def test_a_signal_ends_it_before_the_next_split(finished_run, console, monkeypatch):
    seen, measure = [], Loop.evaluate

    def interrupted(*args):
        seen.append(args)
        os.kill(os.getpid(), signal.SIGINT)
        return measure(*args)

    monkeypatch.setattr(Loop, "evaluate", interrupted)
    with pytest.raises(Interrupted, match="^stopped by SIGINT$") as raised:
        evaluate(EvaluateOptions(finished_run), console)
    assert len(seen) == 1 and raised.value.exit_code == 130


def test_other_data_are_taken_if_the_model_fits_them(idx_folder, tmp_path, console):
    options = Options(
        dataset="mnist",
        model="mlp",
        data_dir=idx_folder,
        num_epochs=1,
        batch_size=16,
        run_dir=tmp_path / "run",
    )
    train(options, console)
    images, labels = read_idx_pair(idx_folder, "train")
    write_idx(idx_folder / "train-images-idx3-ubyte.gz", images[:32, ..., 0])
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", labels[:32])
    results = evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)
    assert results["train_accuracy"] * 32 == pytest.approx(round(results["train_accuracy"] * 32), abs=1e-4)
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", 0 * labels[:32])  # They may lack a class.
    assert evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)["train_accuracy"] < 1
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", 4 * labels[:32])
    message = "holds the labels 4, which are none of the classes that the model learns, 0, 1"
    with pytest.raises(InputError, match=f"--data-dir {idx_folder}: {message}"):
        evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)
