"""`nag-optax evaluate`: the run's own figures, and clear refusals."""

import dataclasses
import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nag_optax.train.data.idx import read_idx_pair
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.loop import Loop
from nag_optax.train.options import EvaluateOptions, Options, PredictOptions
from nag_optax.train.predict import predict
from nag_optax.train.rows import Split, Splits
from nag_optax.train.runner import train
from nag_optax.train.trained import evaluate
from tests.train.conftest import output, write_idx


def test_the_accuracy_is_that_of_the_run(finished_run, console):
    results = evaluate(EvaluateOptions(finished_run), console)
    summary = json.loads((finished_run / "summary.json").read_text())
    for key in ("train_accuracy", "test_accuracy", "train_loss", "test_loss"):
        assert results[key] == summary[key]
    assert f"{summary['test_accuracy']:.2%}" in output(console) and "epoch 3 of 3" in output(console)


def test_the_name_of_the_folder_is_shown_as_it_is(finished_run, tmp_path, console, monkeypatch):
    shutil.copytree(finished_run, tmp_path / "old [b]")
    monkeypatch.chdir(tmp_path)
    evaluate(EvaluateOptions(Path("old [b]")), console)
    assert "old [b], epoch 3 of 3" in output(console)


def test_spinners_say_what_takes_long(finished_run, tmp_path, console, monkeypatch):
    said = []

    @contextmanager
    def busy(_, what):
        said.append(what)
        yield

    for module in ("trained", "predict"):
        monkeypatch.setattr(f"nag_optax.train.{module}.busy", busy)
    evaluate(EvaluateOptions(finished_run), console)
    assert said == ["reading the model", "evaluating train images", "evaluating test images"]
    said.clear()
    np.save(tmp_path / "images.npy", np.zeros((1, 8, 8)))
    predict(PredictOptions(finished_run, (tmp_path / "images.npy",), tmp_path / "classes.csv"))
    assert said == ["reading the model"]


def test_a_run_that_never_had_test_files_is_evaluated_on_its_training_images(idx_folder, tmp_path, console):
    for path in idx_folder.glob("t10k*"):
        path.unlink()
    options = Options(dataset="mnist", data_dir=idx_folder, num_epochs=1, batch_size=32, train_only=True)
    train(dataclasses.replace(options, run_dir=tmp_path / "run"), console)
    assert set(evaluate(EvaluateOptions(tmp_path / "run"), console)) == {"train_accuracy", "train_loss"}


def striped(request):
    """A dataset of one's own. It has other data where a folder is named."""
    count = 20 if request.data_dir else 40
    part = Split(np.random.default_rng(0).integers(0, 255, (count, 8, 8), np.uint8), np.arange(count) % 2)
    return Splits(part, part)


def test_other_data_are_read_or_refused_and_never_passed_over(finished_run, tmp_path, console):
    with pytest.raises(InputError, match=f"--data-dir {tmp_path}: --dataset digits is built in"):
        evaluate(EvaluateOptions(finished_run, data_dir=tmp_path), console)
    options = Options(dataset=f"{__name__}:striped", model="mlp", num_epochs=1, run_dir=tmp_path / "run")
    train(options, console)
    evaluate(EvaluateOptions(tmp_path / "run", data_dir=tmp_path), console)
    assert "│     20 │" in output(console)


def test_pictures_that_were_damaged_since_are_named_or_left_out(tmp_path, console):
    for i in range(12):
        path = tmp_path / "pictures" / ("train" if i < 8 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 20 * i, np.uint8)).save(path)
    options = Options(dataset="folder", data_dir=tmp_path / "pictures", model="mlp", num_epochs=1)
    train(dataclasses.replace(options, run_dir=tmp_path / "run"), console)
    (tmp_path / "pictures" / "test" / "b" / "11.png").write_text("hello")
    with pytest.raises(InputError, match="11.png: cannot be decoded .*say --skip-unreadable"):
        evaluate(EvaluateOptions(tmp_path / "run"), console)
    evaluate(EvaluateOptions(tmp_path / "run", skip_unreadable=True), console)
    assert "1 of 12 pictures cannot be decoded" in output(console) and "│      3 │" in output(console)


def test_a_folder_without_a_run_is_refused(tmp_path, console, finished_run):
    with pytest.raises(InputError, match="config.json: no such file"):
        evaluate(EvaluateOptions(tmp_path), console)
    shutil.copy(finished_run / "config.json", tmp_path)
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        evaluate(EvaluateOptions(tmp_path), console)
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(InputError, match="checkpoints: cannot be read"):
        evaluate(EvaluateOptions(tmp_path), console)
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "checkpoints" / "5.json").mkdir(parents=True)
    with pytest.raises(InputError, match="checkpoints/5 is damaged .*; none is left"):
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
        batch_size=64,
        run_dir=tmp_path / "run",
    )
    train(options, console)
    images, labels = read_idx_pair(idx_folder, "train")
    write_idx(idx_folder / "train-images-idx3-ubyte.gz", images[:32])
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", labels[:32])
    results = evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)
    assert results["train_accuracy"] * 32 == pytest.approx(round(results["train_accuracy"] * 32), abs=1e-4)
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", 0 * labels[:32])  # They may lack a class.
    assert evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)["train_accuracy"] < 1
    write_idx(idx_folder / "train-labels-idx1-ubyte.gz", 4 * labels[:32])
    message = "holds images of 4, which the model does not learn; its classes are 0, 1"
    with pytest.raises(InputError, match=f"--data-dir {idx_folder}: {message}"):
        evaluate(EvaluateOptions(tmp_path / "run", data_dir=idx_folder), console)
