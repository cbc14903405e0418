"""A run and its folder: what it holds, and how it goes on after an end, a signal, a kill or a NaN."""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from nag_optax.train import runner
from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.data import load_dataset
from nag_optax.train.data.idx import read_idx_pair
from nag_optax.train.errors import Diverged, InputError, Interrupted
from nag_optax.train.loop import Loop
from nag_optax.train.metrics import Metrics
from nag_optax.train.options import EvaluateOptions, Options
from nag_optax.train.progress import shown
from nag_optax.train.registry import MODELS
from nag_optax.train.runner import train
from nag_optax.train.spec import resolve
from nag_optax.train.step import train_step
from nag_optax.train.trained import evaluate
from tests.helpers import exhaustive
from tests.train.conftest import SMALL, output, write_idx


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if "second" not in key}


def final_arrays(folder: Path) -> list[np.ndarray]:
    """Every array of the newest checkpoint, read without the trainer's own code."""
    import warnings

    from orbax.checkpoint import v1 as ocp

    record = max((folder / "checkpoints").glob("*.json"), key=lambda path: int(path.stem))
    saved = record.with_name(json.loads(record.read_text())["folder"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sharding info not provided")
        return [np.asarray(leaf) for leaf in jax.tree.leaves(ocp.load_checkpointables(str(saved))["state"])]


def assert_same_run(a: Path, b: Path) -> None:
    """Equal to the bit, times apart."""
    assert without_times(summary_of(a)) == without_times(summary_of(b))
    assert [without_times(row) for row in rows_of(a)] == [without_times(row) for row in rows_of(b)]
    for x, y in zip(final_arrays(a), final_arrays(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_folder_of_a_run(finished_run):
    assert {path.name for path in finished_run.iterdir()} == {
        ".lock",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curves.png",
        "checkpoints",
    }
    summary, rows = summary_of(finished_run), rows_of(finished_run)
    assert (summary["epochs"], summary["steps"], summary["parameters"]) == (3, 69, 9610)
    assert 0.85 < summary["test_accuracy"] <= 1 and 0.85 < summary["train_accuracy"] <= 1
    assert summary["test_accuracy"] * 360 == pytest.approx(round(summary["test_accuracy"] * 360), abs=1e-3)
    assert 0 < summary["seconds_per_epoch"] < summary["wall_seconds"] and summary["compile_seconds"] > 0
    assert [row["epoch"] for row in rows] == [1, 2, 3] and [row["step"] for row in rows] == [23, 46, 69]
    # To 0 by a cosine, after a warm-up of 7 steps.
    rates = [0.05 * (1 + math.cos(math.pi * (step - 1 - 7) / (69 - 7))) for step in (23, 46, 69)]
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates, rel=1e-4)
    assert all(0.1 < row["gradient_norm"] < 10 for row in rows)
    assert all(row["images_per_second"] == pytest.approx(23 * 64 / row["seconds"]) for row in rows)
    assert rows[-1]["test_accuracy"] == summary["test_accuracy"]
    assert rows[0]["train_loss"] > rows[1]["train_loss"] > rows[2]["train_loss"]
    assert (finished_run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((finished_run / "config.json").read_text())["learning_rate"] == 0.1


def test_a_run_is_shown_in_plain_lines_and_a_table(tmp_path, console):
    train(dataclasses.replace(SMALL, num_epochs=2, run_dir=tmp_path / "run"), console)
    text = output(console)
    for part in ("epoch   1/2  loss", "epoch   2/2", "test accuracy", "steps/s", str(tmp_path / "run")):
        assert part in text
    assert "\x1b" not in text and "warning" not in text


EVERYTHING = {
    **{"augment": "crop-flip", "mixup": 0.4, "label_smoothing": 0.1, "accumulate": 2},
    **{"precision": "bfloat16-parameters", "low_memory": True},
}


@pytest.mark.exhaustive
def test_a_pruned_run_in_bfloat16_starts_an_averaged_one_in_float32(tmp_path, console):
    few = dataclasses.replace(SMALL, num_epochs=1)
    pruned = dataclasses.replace(few, prune="group_l2=0.6", run_dir=tmp_path / "a", **EVERYTHING)
    source = train(pruned, console)
    assert 0 < source["zero_units"]["hidden"] < 128
    assert source["pruned_train_accuracy"] == pytest.approx(source["train_accuracy"], abs=2 / 1437)
    averaged = dataclasses.replace(few, init_from=tmp_path / "a", ema=0.9, run_dir=tmp_path / "b")
    summary = train(averaged, console)
    assert summary["train_accuracy"] > source["train_accuracy"]
    found = evaluate(EvaluateOptions(tmp_path / "b"), console)
    assert found == {name: summary[name] for name in found}


def test_a_restored_state_goes_on_equal_to_the_bit_with_every_option_of_a_step(tmp_path):
    spec = resolve(dataclasses.replace(SMALL, ema=0.9, run_dir=tmp_path, **EVERYTHING))
    loop = Loop(spec, load_dataset(spec), jax.devices()[:1])
    state = loop.run_chunk(loop.init(), 3)
    Checkpoints(tmp_path).save(3, state, {})
    whole = loop.run_chunk(state, 3)
    restored = Checkpoints(tmp_path).restore(loop.init(), pytest.fail)
    assert restored is not None
    resumed = loop.run_chunk(restored.state, 3)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_train_only_does_not_touch_the_test_split(tmp_path, console, monkeypatch):
    seen = []
    evaluate = Loop.evaluate
    monkeypatch.setattr(Loop, "evaluate", lambda *args: seen.append(len(args[2].labels)) or evaluate(*args))
    summary = train(
        dataclasses.replace(SMALL, num_epochs=1, train_only=True, run_dir=tmp_path / "r"), console
    )
    assert seen == [1437]
    assert summary["test_accuracy"] is None and summary["test_loss"] is None
    assert summary["train_accuracy"] > 0.5 and "test accuracy" not in output(console)


class Signals:
    """Sends a signal to this process after so many chunks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int, number: int):
        run_chunk, self.left = Loop.run_chunk, after

        def counted(loop, state, length):
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), number)
            return run_chunk(loop, state, length)

        monkeypatch.setattr(Loop, "run_chunk", counted)
        # Five chunks of five steps an epoch, so that a signal can come within one.
        monkeypatch.setitem(MODELS, "mlp", MODELS["mlp"]._replace(steps_per_report=5))


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (signal.SIGTERM, {}),
        exhaustive(signal.SIGINT, {"optimizer": "snoo", "inner": "muon", "adaptive_step": True}),
    ],
)
def test_a_signal_within_an_epoch_saves_and_the_resumed_run_is_bit_equal(
    number, fields, tmp_path, console, monkeypatch
):
    monkeypatch.setitem(MODELS, "mlp", MODELS["mlp"]._replace(steps_per_report=5))
    whole = dataclasses.replace(SMALL, run_dir=tmp_path / "whole", **fields)
    train(whole, console)

    options = dataclasses.replace(SMALL, run_dir=tmp_path / "run", **fields)
    Signals(monkeypatch, after=7, number=number)
    with pytest.raises(Interrupted) as raised:
        train(options, console)
    assert raised.value.exit_code == 128 + number
    assert f"stopped by {number.name} at step 33" in str(raised.value)
    assert f"nag-optax train --resume --run-dir {tmp_path / 'run'}" in str(raised.value)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps()[0] == 33
    assert signal.getsignal(number) not in (None, signal.SIG_IGN)

    train(dataclasses.replace(options, resume=True), console)
    assert f"resuming {tmp_path / 'run'} from step 33" in output(console)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> Options:
    """Evaluated after the epochs 2, 4 and 5; an epoch has chunks of five steps."""
    monkeypatch.setitem(MODELS, "mlp", MODELS["mlp"]._replace(steps_per_report=5))
    return dataclasses.replace(SMALL, num_epochs=5, evaluate_every=2)


def test_rare_evaluations_have_the_rows_of_their_epochs_and_each_epoch_is_saved(
    rarely, tmp_path, console, monkeypatch
):
    always = dataclasses.replace(rarely, evaluate_every=1, run_dir=tmp_path / "always")
    whole = dataclasses.replace(rarely, run_dir=tmp_path / "whole")
    assert train(always, console)["epochs"] == 5
    with monkeypatch.context() as patched:  # A clock by which every chunk takes a second.
        patched.setattr(runner, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
        assert train(whole, console)["epochs"] == 5
    rows, expected = rows_of(whole.run_dir), rows_of(always.run_dir)
    assert [without_times(row) for row in rows] == [without_times(expected[i]) for i in (1, 3, 4)]
    assert [row["seconds"] for row in rows[1:]] == [5, 5]  # an epoch
    assert [row["images_per_second"] for row in rows[1:]] == [23 * 64 / 5] * 2

    broken = dataclasses.replace(rarely, run_dir=tmp_path / "broken")
    Signals(monkeypatch, after=13, number=signal.SIGTERM)  # in the third epoch
    with pytest.raises(Interrupted):
        train(broken, console)
    assert Checkpoints(tmp_path / "broken" / "checkpoints").steps()[:2] == [61, 46]
    assert [row["epoch"] for row in rows_of(broken.run_dir)] == [2]
    (broken.run_dir / "metrics.jsonl").rename(tmp_path / "rows")
    with pytest.raises(InputError, match="metrics.jsonl: holds 0 of the 2 epochs"):
        train(dataclasses.replace(broken, resume=True), console)
    (tmp_path / "rows").rename(broken.run_dir / "metrics.jsonl")
    train(dataclasses.replace(broken, resume=True), console)
    assert_same_run(broken.run_dir, whole.run_dir)


def test_a_signal_while_it_is_evaluated_leaves_the_evaluation_to_be_made(
    rarely, tmp_path, console, monkeypatch
):
    options = dataclasses.replace(rarely, num_epochs=2, run_dir=tmp_path / "run")
    evaluate = Loop.evaluate
    with monkeypatch.context() as patched:
        patched.setattr(
            Loop, "evaluate", lambda *args: os.kill(os.getpid(), signal.SIGINT) or evaluate(*args)
        )
        with pytest.raises(Interrupted, match="at step 46"):
            train(options, console)
    assert not (options.run_dir / "metrics.jsonl").exists()
    train(dataclasses.replace(options, resume=True), console)
    assert [row["epoch"] for row in rows_of(options.run_dir)] == [2]


def test_epochs_between_evaluations_are_one_program_where_a_chunk_holds_them(tmp_path, console, monkeypatch):
    lengths, run_chunk = [], Loop.run_chunk
    monkeypatch.setattr(
        Loop, "run_chunk", lambda loop, state, n: lengths.append(n) or run_chunk(loop, state, n)
    )
    rare = dataclasses.replace(SMALL, evaluate_every=2, run_dir=tmp_path / "rare")
    train(rare, console)
    assert lengths == [46, 23]
    train(dataclasses.replace(SMALL, run_dir=tmp_path / "usual"), console)
    first, second = ({row["epoch"]: row for row in rows_of(tmp_path / name)} for name in ("rare", "usual"))
    assert list(first) == [2, 3]
    for epoch, row in first.items():  # The sums are those of the last epoch.
        assert row["train_loss"] == pytest.approx(second[epoch]["train_loss"], rel=1e-4)
        assert row["test_loss"] == pytest.approx(second[epoch]["test_loss"], rel=1e-4)


def test_a_run_that_lost_its_newest_checkpoint_is_bit_equal_again(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "69" / "state")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 3, "st')  # cut short by a kill
    (tmp_path / "run" / "summary.json").unlink()
    train(dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True), console)
    assert "69 is damaged" in output(console) and "using that of step 46" in output(console)
    assert_same_run(tmp_path / "run", finished_run)


def test_resume_without_a_checkpoint_starts_and_says_so(tmp_path, console, finished_run):
    (tmp_path / "run").mkdir()
    shutil.copy(finished_run / "config.json", tmp_path / "run")
    train(dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True), console)
    assert f"no checkpoint in {tmp_path / 'run'}: starting from the beginning" in output(console)
    assert_same_run(tmp_path / "run", finished_run)


def test_resuming_a_finished_run_changes_nothing(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    summary = train(dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True), console)
    assert summary == summary_of(finished_run) and "is finished already" in output(console)
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "is not empty; --resume continues its run, --overwrite replaces it"),
        ({"seed": 5}, "is not empty"),
        ({"seed": 5, "resume": True}, r"another configuration: --seed 5 \(it holds 0\)"),
        ({"optimizer": "adam", "resume": True}, r"another configuration: --optimizer adam \(it holds nag\)"),
        ({"train_only": True, "resume": True}, r"configuration: --train-only True \(it holds False\)"),
        ({"resume": True, "overwrite": True}, "--overwrite: cannot be combined with --resume"),
        ({"batch_size": 5000, "overwrite": True}, "--batch-size 5000: must be at most 1437"),
        ({"image_size": 3, "model": "cnn", "overwrite": True}, "needs images of at least 4 pixels"),
        (
            {"num_devices": 64, "overwrite": True},
            "--num-devices 64: JAX finds ",
        ),
        ({"device": "tpu", "overwrite": True}, "--device tpu: JAX finds none here"),
    ],
)
def test_nothing_is_overwritten_by_a_run_that_is_refused(finished_run, console, change, message):
    before = {p: p.read_bytes() for p in finished_run.rglob("*") if p.is_file()}
    with pytest.raises(InputError, match=message):
        train(dataclasses.replace(SMALL, run_dir=finished_run, **change), console)
    assert before == {p: p.read_bytes() for p in finished_run.rglob("*") if p.is_file()}


def test_rows_that_are_lost_are_named_and_a_broken_summary_is_written_anew(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text("{")
    resumed = dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True)
    train(resumed, console)
    assert without_times(summary_of(tmp_path / "run")) == without_times(summary_of(finished_run))
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="metrics.jsonl: holds 0 of the 3 epochs"):
        train(resumed, console)


def test_a_row_that_is_damaged_is_named(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text("{\n{}\n")
    with pytest.raises(InputError, match="metrics.jsonl: holds 0 of the 3 epochs"):
        train(dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True), console)


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_resume_on_other_data_is_refused_and_changes_nothing(tmp_path, idx_folder, console):
    folder = tmp_path / "run"
    run = Options(
        dataset="mnist",
        model="mlp",
        data_dir=idx_folder,
        num_epochs=1,
        batch_size=16,
        run_dir=folder,
    )
    train(run, console)
    images, labels = read_idx_pair(idx_folder, "train")
    others = {
        "holds images of 1, which the model does not learn": (images, labels * 4),
        "has images of 5 x 5 x 1; the run was trained on 6 x 5 x 1": (images[:, 1:], labels),
        "has other training images or labels than the run": (images, 1 - labels),
    }
    before = contents(folder)
    for i, (message, (x, y)) in enumerate(others.items()):
        other = tmp_path / f"other{i}"
        shutil.copytree(idx_folder, other)
        write_idx(other / "train-images-idx3-ubyte.gz", x)
        write_idx(other / "train-labels-idx1-ubyte.gz", y)
        if x.shape[1] == 5:
            write_idx(other / "t10k-images-idx3-ubyte", np.zeros((20, 5, 5)))
        with pytest.raises(InputError, match=f"--data-dir {other}: {message}"):
            train(dataclasses.replace(run, data_dir=other, resume=True), console)
        assert contents(folder) == before
    moved = idx_folder.rename(tmp_path / "moved")
    train(dataclasses.replace(run, data_dir=moved, resume=True), console)
    assert json.loads((folder / "config.json").read_text())["data_dir"] == str(moved)


def test_the_default_batch_has_no_more_images_than_there_are_and_resume_keeps_it(
    tmp_path, idx_folder, console
):
    few = Options(dataset="mnist", data_dir=idx_folder, num_epochs=1, validation=0.25)
    run = dataclasses.replace(few, run_dir=tmp_path / "a")
    train(run, console)
    assert "batches of 48 images instead of 64: there are only 48 to train on\n" in output(console)
    assert "\n1 step of 48 images, learning rate" in output(console)
    assert json.loads((tmp_path / "a" / "config.json").read_text())["batch_size"] == 48
    assert train(dataclasses.replace(run, resume=True), console)["steps"] == 1
    own = dataclasses.replace(run, batch_size=49, run_dir=tmp_path / "b")
    with pytest.raises(InputError, match="--batch-size 49: must be at most 48, the number of images to tr"):
        train(own, console)
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_that_cannot_be_restored_leaves_the_configuration(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    for step in (23, 46, 69):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step))
    before = contents(tmp_path / "run")
    with pytest.raises(InputError, match="none is left"):
        train(dataclasses.replace(SMALL, run_dir=tmp_path / "run", resume=True, device="cpu"), console)
    assert contents(tmp_path / "run") == before


def test_overwrite_replaces_the_run_and_spares_other_files(finished_run, tmp_path, console):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    options = dataclasses.replace(SMALL, num_epochs=1, run_dir=tmp_path / "run", overwrite=True)
    assert train(options, console)["epochs"] == 1
    assert len(rows_of(tmp_path / "run")) == 1
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [23]
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_run_dir_that_cannot_be_one(tmp_path, console, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="--run-dir .*file"):
        train(dataclasses.replace(SMALL, run_dir=tmp_path / name), console)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, console, monkeypatch):
    def poisoned(graphdef, optimizer, state, *batch):
        new = train_step(graphdef, optimizer, state, *batch)
        return new._replace(loss_sum=new.loss_sum * jax.numpy.where(state.step >= 30, jax.numpy.nan, 1.0))

    monkeypatch.setattr("nag_optax.train.loop.train_step", poisoned)
    with pytest.raises(
        Diverged, match=r"not finite at step 46 \(epoch 2\); the checkpoint of step 23 is kept"
    ):
        train(dataclasses.replace(SMALL, run_dir=tmp_path / "run"), console)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [23]


def test_a_learning_rate_that_diverges_is_told_what_to_change(tmp_path, console):
    options = dataclasses.replace(SMALL, learning_rate=1e20, run_dir=tmp_path / "run")
    with pytest.raises(Diverged, match=r"no checkpoint was written yet.*a lower --learning-rate than 1e\+20"):
        train(options, console)


def test_a_loss_far_above_a_guess_is_warned_of_with_the_learning_rate(tmp_path, console):
    options = dataclasses.replace(SMALL, num_epochs=1, learning_rate=1000.0, run_dir=tmp_path / "run")
    train(options, console)
    warning = (
        r"warning: the loss of epoch 1 is \d\.\de\+\d\d, but guessing has 2\.3026: the learning rate is too "
        r"high\. Start a new --run-dir with a lower --learning-rate than 1000 \(default 0\.1\), "
        r"or with --clip-norm 1\n"
    )
    text = output(console)
    assert len(re.findall(warning, text)) == 1
    losses = re.findall(r"loss +(\d\S*)", text)
    assert len(losses) == 3 and all(len(loss) <= 7 for loss in losses)  # epoch, train, test


def test_a_final_loss_that_is_not_finite_is_no_result(tmp_path, console, monkeypatch):
    monkeypatch.setattr(Loop, "evaluate", lambda *_: Metrics(math.inf, 0.1))
    options = dataclasses.replace(SMALL, num_epochs=1, train_only=True, run_dir=tmp_path / "run")
    with pytest.raises(Diverged, match=r"not finite at step 23 .* checkpoint of step 23 is kept"):
        train(options, console)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_validation_loss_that_is_not_finite_stops_the_run(tmp_path, console, monkeypatch):
    def evaluate(loop, state, split, look):
        return Metrics(math.inf if split is loop.dataset.validation else 0.5, 0.9)

    monkeypatch.setattr(Loop, "evaluate", evaluate)
    options = dataclasses.replace(SMALL, num_epochs=1, validation=0.2, run_dir=tmp_path / "run")
    with pytest.raises(Diverged, match="not finite at step .*no checkpoint was written yet"):
        train(options, console)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (0.0, "0.0000"),
        (3.2e-7, "3.2e-07"),
        (0.00123, "0.0012"),
        (2.3026, "2.3026"),
        (104.2544, "104.25"),
        (1234.5, "1.2e+03"),
        (2.7e24, "2.7e+24"),
    ],
)
def test_a_loss_takes_seven_characters_at_most(loss, text):
    assert shown(loss) == text
