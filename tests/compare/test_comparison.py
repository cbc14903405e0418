"""A comparison writes, keeps, refuses and resumes its folder."""

import dataclasses
import io
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from rich.console import Console

from nag_optax.compare import compare, images, problems
from nag_optax.compare.images import first_reaching, score
from nag_optax.compare.report import to_json
from nag_optax.compare.spec import CompareOptions, ComparisonFolder, resolve
from nag_optax.train.errors import InputError, Interrupted
from nag_optax.train.folder import as_begun
from nag_optax.train.options import Options
from nag_optax.train.registry import RECIPES
from nag_optax.train.rows import Recipe
from nag_optax.train.runner import train
from tests.compare.conftest import SMALL

pytestmark = pytest.mark.usefixtures("unsaved")  # `finished`, of the whole session, has its figure


def silent() -> Console:
    return Console(file=io.StringIO(), width=80)


def test_the_folder_holds_table_figure_and_every_curve(finished):
    folder, printed = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        ".lock",
        "comparison.json",
        "comparison.md",
        "comparison.png",
        "config.json",
        "optimizers",
    ]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    comparison = json.loads((folder / "comparison.json").read_text())
    assert comparison["seeds"] == [0, 1] and comparison["config"]["batch_size"] == 128
    assert {"jax", "optax", "nag_optax", "flax"} <= set(comparison["versions"])
    nag, adam = comparison["optimizers"]
    assert (nag["name"], nag["best"], adam["name"]) == ("nag", 0, "adam")
    kept, diverged = nag["trials"]
    assert diverged["diverged"] and diverged["validation_loss"] == [None, None]
    assert not kept["diverged"] and kept["learning_rate"] == 0.03
    for curve in nag["chosen"]["curves"].values():
        assert len(curve) == 2 and all(len(seed) == len(comparison["steps"]) for seed in curve)
    assert nag["chosen"]["curves"]["test_accuracy"][0][-1] == nag["chosen"]["test_accuracy"][0] > 0.5
    assert nag["seconds_per_step"] > 0 and nag["state_bytes_per_parameter"] == pytest.approx(4, abs=0.01)
    assert adam["state_bytes_per_parameter"] == pytest.approx(8, abs=0.01)
    assert "NAG" in printed and "best at the lowest learning rate tried" in printed
    text = (folder / "comparison.md").read_text()
    command = (
        r"\nnag-optax compare --optimizers nag adam --learning-rates 0.03 1e\+30 "
        r"--num-epochs 1 --batch-size 128 --seeds 2\n"
    )
    assert text.startswith("# digits, mlp: 1 epoch, 2 seeds\n")
    assert re.search(r"^\| NAG +\| +0\.03 \|", text, re.M)
    assert "(comparison.png)" in text and re.search(command, text)


def test_another_comparison_is_not_overwritten_unless_asked(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    with pytest.raises(InputError, match="is not empty; --resume .*--overwrite"):
        compare(dataclasses.replace(SMALL, run_dir=folder), silent())
    other = CompareOptions(problem="quadratic", optimizers=("sgd",), num_steps=5, run_dir=folder)
    with pytest.raises(InputError, match="another configuration"):
        compare(dataclasses.replace(other, resume=True), silent())
    assert (folder / "comparison.json").read_bytes() == (finished[0] / "comparison.json").read_bytes()
    compare(dataclasses.replace(other, overwrite=True), silent())
    assert [p.name for p in (folder / "optimizers").iterdir()] == ["sgd.json"]


def test_a_run_and_a_comparison_do_not_overwrite_each_other(tmp_path):
    options = Options(model="mlp", num_epochs=1, run_dir=tmp_path / "run")
    train(options, silent())
    comparison = CompareOptions(
        problem="quadratic", optimizers=("sgd",), num_steps=5, run_dir=tmp_path / "comparison"
    )
    compare(comparison, silent())
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for how in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(InputError, match="not a readable configuration of a comparison"):
            compare(dataclasses.replace(comparison, run_dir=tmp_path / "run", **how), silent())
        with pytest.raises(InputError, match="not a readable configuration of a run"):
            train(dataclasses.replace(options, run_dir=tmp_path / "comparison", **how), silent())
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_a_comparison_on_other_data_is_refused(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "run")
    resumed = dataclasses.replace(SMALL, device="cpu", run_dir=tmp_path / "run", resume=True)
    load = images.load_dataset
    monkeypatch.setattr(images, "load_dataset", lambda spec: load(spec)._replace(digest="other"))
    with pytest.raises(
        InputError, match="^--dataset digits: has other training data than those of nag, adam"
    ):
        compare(resumed, silent())
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device"] == "auto"


def test_a_comparison_that_is_overwritten_loses_its_own_files_alone(tmp_path):
    options = CompareOptions(problem="quadratic", optimizers=("sgd",), num_steps=5, run_dir=tmp_path / "run")
    compare(options, silent())
    (tmp_path / "run" / "mine.txt").write_text("mine")
    again = dataclasses.replace(options, optimizers=("nag",), overwrite=True)
    compare(again, silent())
    assert [p.name for p in (tmp_path / "run" / "optimizers").iterdir()] == ["nag.json"]
    assert (tmp_path / "run" / "mine.txt").exists()


def test_an_interrupt_keeps_what_is_finished_and_resume_goes_on(tmp_path, monkeypatch):
    options = CompareOptions(
        problem="quadratic", optimizers=("sgd", "nag", "adam"), num_steps=20, run_dir=tmp_path / "run"
    )
    whole = compare(dataclasses.replace(options, run_dir=tmp_path / "whole"), silent())
    descend, descents = problems.descend, []

    def interrupted(problem, row, *args):
        descents.append(row.label)
        if row.label == "NAG" and descents.count("NAG") == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return descend(problem, row, *args)

    monkeypatch.setattr(problems, "descend", interrupted)
    with pytest.raises(Interrupted) as stopped:
        compare(options, silent())
    assert stopped.value.exit_code == 130
    assert str(stopped.value).startswith("stopped by SIGINT; finished and kept: sgd")
    assert f"nag-optax compare --resume --run-dir {tmp_path}/run" in str(stopped.value)
    assert not (tmp_path / "run" / "comparison.json").exists()
    before = descents.count("gradient descent")
    resumed = compare(dataclasses.replace(options, resume=True), silent())
    assert descents.count("gradient descent") == before
    assert resumed["optimizers"] == whole["optimizers"]


@pytest.mark.parametrize("on", [{"problem": "quadratic", "num_steps": 20}, {"seeds": 1, "num_epochs": 1}])
def test_an_optimizer_of_ones_own_is_compared_as_the_same_one_of_the_table(tmp_path, on):
    options = CompareOptions(optimizers=("adam", "optax:adam"), learning_rates=(0.03,), **on)
    known, own = compare(dataclasses.replace(options, run_dir=tmp_path / "run"), silent())["optimizers"]
    assert own["label"] == "optax:adam" and own["trials"] == known["trials"]
    resumed = dataclasses.replace(options, run_dir=tmp_path / "run", resume=True)
    assert compare(resumed, console := silent())["optimizers"][1]["trials"] == own["trials"]
    assert isinstance(console.file, io.StringIO)
    assert "kept in" in console.file.getvalue() and ": adam, optax:adam" in console.file.getvalue()
    assert not list((tmp_path / "run").rglob("*:*"))


@pytest.mark.parametrize("on", [{"problem": "quadratic"}, {}])
@pytest.mark.parametrize(
    ("own", "why"), [("optax:lbfgs", "'grad' and 'value_fn'"), ("optax:idenity", "cannot be imported")]
)
def test_one_that_cannot_be_compared_is_refused_before_the_others_run(tmp_path, on, own, why):
    options = CompareOptions(optimizers=("nag", own), run_dir=tmp_path / "run", **on)
    with pytest.raises(InputError, match=f"^--optimizers {own}: .*{why}"):
        compare(options, silent())
    assert not (tmp_path / "run").exists()


def test_the_default_batch_fits_the_images_of_the_search(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, ("digits", "mlp"), Recipe(1, 2000))
    few = dataclasses.replace(SMALL, optimizers=("nag",), learning_rates=(0.03,), seeds=1, batch_size=None)
    options, console = dataclasses.replace(few, run_dir=tmp_path / "comparison"), silent()
    # A sixth of 1437 images is held out.
    assert compare(options, console)["config"]["batch_size"] == 1437 - 239
    assert isinstance(console.file, io.StringIO)
    assert "batches of 1198 images instead of 2000" in console.file.getvalue()
    resumed = as_begun(dataclasses.replace(options, resume=True), ComparisonFolder)
    assert resolve(resumed).to_dict()["batch_size"] == 1198


@pytest.mark.parametrize("damage", ['{"name": "sg', "\xff"])
def test_a_result_that_is_damaged_is_made_again(tmp_path, damage):
    options = CompareOptions(problem="quadratic", optimizers=("sgd",), num_steps=5, run_dir=tmp_path / "run")
    whole = compare(options, silent())
    (tmp_path / "run" / "optimizers" / "sgd.json").write_text(damage)
    assert compare(dataclasses.replace(options, resume=True), silent())["optimizers"] == whole["optimizers"]


def test_json_is_strict_and_a_list_of_numbers_is_one_line():
    text = to_json({"a": np.array([1.0, np.nan, np.inf, 1 / 3]), "b": [[1, 2], ["x"]], "c": 1e-30})
    assert json.loads(text) == {"a": [1.0, None, None, 0.333333], "b": [[1, 2], ["x"]], "c": 1e-30}
    assert "[1.0, null, null, 0.333333]" in text and "[1, 2]" in text


def test_the_first_evaluation_at_the_target_counts():
    steps, accuracy = np.array([15, 30, 45]), np.array([0.5, 0.97, 0.9])
    assert first_reaching(steps, accuracy, 0.97) == 30
    assert first_reaching(steps, accuracy, 0.98) is None


def test_the_validation_loss_chooses_the_learning_rate():
    trial = {"diverged": False, "validation_loss": [0.1, 0.3], "validation_accuracy": [0.1, 0.2]}
    assert score(trial) == pytest.approx(0.2)
    assert score(trial | {"diverged": True}) is None


def test_the_test_split_chooses_nothing(finished, tmp_path, monkeypatch):
    """With other test images the trials and the learning rates are the same to the bit."""
    load = images.load_dataset

    def with_noise_to_test(spec):
        dataset = load(spec)
        noise = np.random.default_rng(1).permuted(dataset.test.images)
        return dataset._replace(test=dataset.test._replace(images=noise))

    monkeypatch.setattr(images, "load_dataset", with_noise_to_test)
    other = compare(dataclasses.replace(SMALL, optimizers=("nag",), run_dir=tmp_path / "run"), silent())
    a, b = (
        found["optimizers"][0] for found in (json.loads((finished[0] / "comparison.json").read_text()), other)
    )
    assert (a["best"], a["trials"]) == (b["best"], b["trials"])
    assert a["chosen"]["train_loss"] == b["chosen"]["train_loss"]
    assert min(a["chosen"]["test_accuracy"]) > 2 * max(b["chosen"]["test_accuracy"])
