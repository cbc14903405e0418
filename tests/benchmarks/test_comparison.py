"""What is kept of a comparison."""

import json
from pathlib import Path

import pytest

from benchmarks import comparison

README = Path(__file__).parents[2] / "README.md"
RESULTS = README.parent / "benchmarks" / "results"


def test_without_its_curves_a_comparison_is_what_it_was(tmp_path):
    nag = {"name": "nag", "best": 0, "trials": [{"validation_loss": [0.5]}]}
    lost = {"name": "sgd", "best": None, "trials": [], "chosen": None}
    chosen = {"test_accuracy": [0.9]}
    found = {
        "config": {"problem": None, "dataset": "digits"},
        "optimizers": [nag | {"chosen": chosen | {"curves": {"loss": [[1.0]]}}}, lost],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    comparison.main([str(tmp_path), "--json", str(tmp_path / "kept.json")])
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept == {**found, "optimizers": [nag | {"chosen": chosen}, lost]}


@pytest.mark.parametrize("content", ["", "{}", '{"config": {"problem": "quadratic"}}'])
def test_another_file_is_named(tmp_path, content: str):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(SystemExit, match=r"comparison\.json: not "):
        comparison.main([str(tmp_path), "--json", str(tmp_path / "kept.json")])
    assert not (tmp_path / "kept.json").exists()


def test_the_table_of_the_readme_is_that_of_the_results():
    results = [
        json.loads((RESULTS / f"comparison-{name}.json").read_text())
        for name in ("digits", "digits-cnn", "mnist-mlp")
    ]
    assert comparison.overview(results) in README.read_text()
