"""The benchmark of devices: its tables, and the goals that the committed result meets."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import device
from benchmarks.render import RESULTS


@pytest.fixture(scope="module")
def result():
    return json.loads((RESULTS / "device.json").read_text())


def test_the_committed_result_meets_the_goals(result):
    steps = {(entry["model"], entry["state"], entry["engine"]): entry for entry in result["steps"]}
    assert steps["cnn", "one byte", "IREE"]["megabytes"] <= 60
    assert result["runtime_megabytes"] <= 160
    # Momentum is a half of the float32 state, less what is too small to pack and the statistics.
    whole, packed = (steps["cnn", state, "IREE"]["state_bytes"] for state in ("float32", "one byte"))
    assert 0.62 < packed / whole < 0.65
    assert len(steps) == 3 * (3 + 3 + 1)


def test_the_accuracies_are_those_of_one_set_of_weights(result):
    by_model = {}
    for entry in result["predictions"]:
        by_model.setdefault(entry["model"], []).append(entry["accuracy"])
    assert set(by_model) == set(device.MODELS)
    for accuracies in by_model.values():
        assert len(accuracies) == 3 and np.ptp(accuracies) == 0 and accuracies[0] > 0.95


def test_the_rows_of_the_tables(result):
    first = device.rows(result)[0][0]
    assert first[:3] == ("mlp", "float32", "IREE") and len(first) == len(device.COLUMNS)
    entry = result["steps"][0]
    assert first[3:5] == (f"{entry['milliseconds']:.2f}", f"{entry['megabytes']:.0f}")
    row = device.inference_rows(result)[2][0]
    assert row[:2] == ("pruned cnn", "IREE") and len(row) == len(device.INFERENCE)


def test_a_process_that_fails_is_an_error(tmp_path: Path):
    with pytest.raises(RuntimeError, match="jax: FileNotFoundError"):
        device.measured("jax", tmp_path, "train")
