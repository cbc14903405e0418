"""The search of the learning rates: what it writes, and that the trainer's defaults are what it found."""

import json
from pathlib import Path

import pytest

from benchmarks import tuning
from nag_optax.train.defaults import DEFAULTS

STORED = sorted(tuning.RESULTS.glob("tuning-*.json"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_defaults_are_the_best_of_the_search(path):
    result = json.loads(path.read_text())
    defaults = DEFAULTS[result["dataset"], result["model"]]
    found = {
        name: trials["trials"][trials["best"]]["learning_rate"]
        for name, trials in result["optimizers"].items()
    }
    assert {"nadam", "nadamw", "adan", "muon", "snoo", "ema_nesterov", "gpa"} <= set(found)
    assert found == {name: defaults.learning_rate[name] for name in found}
    assert (result["num_epochs"], result["batch_size"]) == (defaults.num_epochs, defaults.batch_size)
    assert result["schedule"] == defaults.schedule


def test_the_tables_are_those_of_the_results():
    assert len(STORED) >= 2
    written = (tuning.RESULTS / "tuning.md").read_text()
    assert written == tuning.markdown([json.loads(path.read_text()) for path in STORED])


def test_a_search_adds_its_optimizers_to_those_that_are_there(tmp_path: Path, capsys, standard_promotion):
    few = ["--results", str(tmp_path), "--seeds", "1", "--num-epochs", "1", "--learning-rates"]
    tuning.main([*few, "0.01", "1e30", "--optimizers", "nadam"])
    tuning.main([*few, "0.1", "--optimizers", "sgd"])
    result = json.loads((tmp_path / "tuning-digits-mlp.json").read_text())
    assert set(result["optimizers"]) == {"nadam", "sgd"} and result["seeds"] == 1
    nadam = result["optimizers"]["nadam"]
    assert nadam["best"] == 0 and [t["diverged"] for t in nadam["trials"]] == [False, True]
    (loss,) = nadam["trials"][0]["train_loss"]
    table = (tmp_path / "tuning.md").read_text()
    assert f"0.01: {loss:.2g}, 1e+30: diverged" in table and "--optimizers nadam sgd" in table
    assert "| sgd " in capsys.readouterr().out
