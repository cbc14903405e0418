"""The measurements of the server."""

import json

import pytest

from benchmarks import parallel, render


def test_the_tables_have_a_row_for_each_size_format_and_run():
    result = json.loads((render.RESULTS / "parallel.json").read_text())
    rates, wires, times = (rows for _, _, rows in parallel.tables(result))
    assert [row[0] for row in rates] == [f"{size:,}" for size in parallel.SIZES]
    assert {len(row) for row in rates} == {len(parallel.RATE_COLUMNS)}
    assert [row[:2] for row in wires] == [
        ("float32", "4,000,000"),
        ("bfloat16", "2,000,000"),
        ("int8", "1,031,256"),  # a float32 for each block of 128, in two arrays
    ]
    assert times[0][0] == "`nag-optax train`"


def test_a_server_with_a_dead_and_a_slow_worker_trains_within_two_minutes():
    """What the page promises: 97.5 % on the test images of MNIST, on two cores."""
    result = json.loads((render.RESULTS / "parallel.json").read_text())
    (run,) = (run for run in result["runs"] if run.get("trouble"))
    assert run["workers"] == 3 and result["machine"]["cores"] == 2
    assert run["test_accuracy"] >= 0.975 and run["seconds"] < 120


@pytest.mark.exhaustive
def test_a_rate_is_measured():
    found = parallel.rate(1000, 2, "int8", seconds=0.2)
    assert found["updates_per_second"] > 1 and found["bytes"] == 1000 + 4 * (4 + 5)
