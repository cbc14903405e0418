"""The simulation of a server whose workers lag."""

import json
import statistics
from collections import Counter
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from benchmarks import render, staleness


def test_a_slower_worker_arrives_less_often():
    counts = Counter(staleness.arrivals(4, 4.0, 2000, 0))
    shares = np.array([counts[i] for i in range(4)]) / 2000
    # In the ratio of 1, 1/2, 1/3, 1/4; renewals vary by a third of a mean time over the root of their number.
    np.testing.assert_allclose(shares, np.array([12, 6, 4, 3]) / 25, atol=0.01)
    assert list(staleness.arrivals(4, 4.0, 50, 1)) == list(staleness.arrivals(4, 4.0, 50, 1))


def test_with_one_worker_at_work_both_momenta_are_one():
    """And the loss falls. Where two take turns, the velocities differ."""
    _, shared, own = staleness.CONTENDERS
    orders = jnp.asarray([[0] * 64, [0, 1] * 32])
    of_one, of_two = (
        np.asarray(staleness.simulation(contender, 2)(jnp.zeros(2, int), orders))
        for contender in (shared, own)
    )
    np.testing.assert_array_equal(of_one[0], of_two[0])
    assert of_one[0, -8:].mean() < of_one[0, :8].mean()
    assert (of_one[1] != of_two[1]).any()


def test_the_measured_table_says_what_the_page_says(tmp_path: Path):
    """Of 16 workers and more, the loss of DANA-Zero is the lowest on every seed."""
    entries = json.loads((render.RESULTS / "staleness.json").read_text())["entries"]
    assert len(staleness.rows(entries)) == len(staleness.SPREADS) * len(staleness.CONTENDERS)
    for spread in staleness.SPREADS:
        *others, dana = (e["losses"] for e in entries if e["spread"] == spread)
        for workers in ("16", "32"):
            assert max(dana[workers]) < min(min(other[workers]) for other in others)
        assert statistics.fmean(dana["8"]) < 1.3 * statistics.fmean(dana["1"])
    staleness.draw(entries, tmp_path / "staleness.png")
    assert (tmp_path / "staleness.png").stat().st_size > 10_000
