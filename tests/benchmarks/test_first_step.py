"""The benchmark of the first step: a run starts sooner with the programs that the one before kept."""

import json

import pytest

from benchmarks import first_step
from benchmarks.render import RESULTS


def test_the_committed_result():
    result = json.loads((RESULTS / "first_step.json").read_text())
    assert list(result["models"]) == list(first_step.MODELS)
    for times in result["models"].values():
        assert times["read"]["seconds"] < times["compiled"]["seconds"] / 2
    rows = first_step.rows(result)
    seconds = result["models"]["mlp"]["read"]["seconds"]
    assert rows[1][:3] == ("mlp", "read", f"{seconds:.1f}")


def test_a_command_without_an_epoch_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="without an epoch"):
        first_step.first_epoch("vgg", str(tmp_path))
