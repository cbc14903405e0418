"""The search of the learning rates: what it writes, and that the trainer's defaults are what it found."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tuning
from nag_optax.train.data.idx import read_idx_pair
from nag_optax.train.registry import OPTIMIZERS, RECIPES, SEARCHES
from tests.train.conftest import write_idx

STORED = sorted(tuning.RESULTS.glob("tuning-*.json"))


def default_rates(dataset: str, model: str) -> dict[str, float]:
    return {name: row.searched[dataset, model] for name, row in OPTIMIZERS.items()}


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_the_defaults_are_the_best_of_the_search(path):
    result = json.loads(path.read_text())
    defaults = RECIPES[result["dataset"], result["model"]]
    found = {
        name: trials["trials"][trials["best"]]["learning_rate"]
        for name, trials in result["optimizers"].items()
    }
    assert found == default_rates(result["dataset"], result["model"])
    assert (result["num_epochs"], result["batch_size"]) == (defaults.num_epochs, defaults.batch_size)
    assert result["schedule"] == defaults.schedule


def test_every_rate_names_the_search_that_found_it():
    results = [json.loads(path.read_text()) for path in STORED]
    searched = [(result["dataset"], result["model"]) for result in results]
    files = [f"benchmarks/results/{path.name}" for path in STORED]
    assert dict(zip(searched, files, strict=True)) == SEARCHES
    assert all(set(row.searched) == set(SEARCHES) for row in OPTIMIZERS.values())


def test_the_tables_are_those_of_the_results():
    written = (tuning.RESULTS / "tuning.md").read_text()
    assert written == tuning.markdown([json.loads(path.read_text()) for path in STORED])


@pytest.mark.exhaustive
def test_a_search_adds_its_optimizers_to_those_that_are_there(tmp_path: Path, capsys, standard_promotion):
    few = ["--results", str(tmp_path), "--seeds", "1", "--num-epochs", "1", "--learning-rates"]
    tuning.main([*few, "0.01", "1e30", "--optimizers", "nadam"])
    tuning.main([*few, "0.1", "--optimizers", "sgd"])
    result = json.loads((tmp_path / "tuning-digits-mlp.json").read_text())
    assert set(result["optimizers"]) == {"nadam", "sgd"} and result["seeds"] == 1
    nadam = result["optimizers"]["nadam"]
    assert nadam["best"] == 0 and [t["diverged"] for t in nadam["trials"]] == [False, True]
    (loss,) = nadam["trials"][0]["validation_loss"]
    table = (tmp_path / "tuning.md").read_text()
    assert len(nadam["test_accuracy"]) == 1 and f" {100 * nadam['test_accuracy'][0]:.2f} |" in table
    assert (
        f"0.01: {loss:.3g}, 1e+30: diverged" in table
        and "--optimizers nadam --learning-rates 0.01 1e+30" in table
    )
    assert "--optimizers sgd --learning-rates 0.1 --num-epochs 1 --seeds 1\n" in table
    assert "| sgd " in capsys.readouterr().out


def test_the_first_images_are_those_of_the_files(tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        "train": rng.integers(0, 256, (5, 3, 4), np.uint8),
        "t10k": rng.integers(0, 256, (2, 3, 4), np.uint8),
    }
    for split, images in arrays.items():
        write_idx(tmp_path / f"{split}-images-idx3-ubyte", images)
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8))
    folder = tuning.first_images(tmp_path, 3, tmp_path / "first")
    for split, count in (("train", 3), ("t10k", 2)):
        images, labels = read_idx_pair(folder, split)
        np.testing.assert_array_equal(images, arrays[split][:count])
        np.testing.assert_array_equal(labels, np.arange(count))


def test_a_comparison_that_was_made_serves_as_a_search(tmp_path: Path, capsys):
    trials = [
        {"diverged": False, "learning_rate": 0.1, "validation_loss": [0.5, 0.7]},
        {"diverged": False, "learning_rate": 0.3, "validation_loss": [0.4, 0.4]},
    ]
    chosen = {"curves": {"loss": [[1.0]]}, "test_accuracy": [0.9, 0.8]}
    config = {"dataset": "mnist", "model": "cnn", "problem": None, "data_dir": "/secret/place"}
    config |= {"optimizers": ["nag-restart", "nag"], "num_epochs": 1, "batch_size": 64, "seeds": 2}
    found = {
        "config": config | {"schedule": "linear"},
        "date": "2026-01-01T00:00:00",
        "machine": {"device": "a CPU", "cores": 2},
        "versions": {"python": "3"},
        "optimizers": [
            {"name": name, "best": 1, "note": "", "trials": trials, "chosen": chosen}
            for name in config["optimizers"]
        ],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    tuning.main(["--results", str(tmp_path), "--comparison", str(tmp_path)])
    result = json.loads((tmp_path / "tuning-mnist-cnn.json").read_text())
    assert set(result["optimizers"]) == {"nag"}  # the trainer names no optimizer nag-restart
    assert result["optimizers"]["nag"]["trials"][1]["validation_loss"] == [0.4, 0.4]
    assert result["optimizers"]["nag"]["test_accuracy"] == [0.9, 0.8]
    table = (tmp_path / "tuning.md").read_text()
    assert (
        "nag-optax compare --dataset mnist --data-dir DIR --model cnn --optimizers nag-restart nag" in table
    )
    assert "1 epochs" not in table and "2 seeds" in table and "0.1: 0.6, 0.3: 0.4" in table
    assert "secret" not in table + json.dumps(result)
    assert "| nag " in capsys.readouterr().out
