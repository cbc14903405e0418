"""What is kept of a comparison."""

import json

import pytest

from benchmarks import comparison


def test_without_its_curves_a_comparison_is_what_it_was(tmp_path):
    nag = {"name": "nag", "best": 0, "trials": [{"validation_loss": [0.5]}]}
    lost = {"name": "sgd", "best": None, "trials": [], "chosen": None}
    chosen = {"test_accuracy": [0.9]}
    found = {
        "config": {"problem": None, "dataset": "digits"},
        "optimizers": [nag | {"chosen": chosen | {"curves": {"loss": [[1.0]]}}}, lost],
    }
    (tmp_path / "comparison.json").write_text(json.dumps(found))
    comparison.main([str(tmp_path), "--about", "a flower", "--json", str(tmp_path / "kept.json")])
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept == {**found, "about": "a flower", "optimizers": [nag | {"chosen": chosen}, lost]}


@pytest.mark.parametrize("content", ["", "{}", '{"config": {"problem": "quadratic"}}'])
def test_another_file_is_named(tmp_path, content: str):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(SystemExit, match=r"comparison\.json: not "):
        comparison.main([str(tmp_path), "--json", str(tmp_path / "kept.json")])
    assert not (tmp_path / "kept.json").exists()
