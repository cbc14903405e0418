"""The large convex problems, small: solvers agree, and the loosest tolerance that does it is timed."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import render
from benchmarks.convex import large


def test_the_loosest_tolerance_that_reaches_a_gap_is_timed():
    """F(x) = 1 + x from x = 1; one solver returns its tolerance, one a thousandth, one never comes near."""
    calls = []

    def solver(name, x):
        def solve(tolerance):
            calls.append((name, tolerance))
            return np.array([x(tolerance)])

        return solve

    solvers = {
        "exact": solver("exact", lambda tolerance: tolerance if tolerance > 1e-9 else 0.0),
        "eager": solver("eager", lambda tolerance: tolerance / 1000),
        "lost": solver("lost", lambda tolerance: 0.5),
    }
    entry = large.measure(large.Problem("p", np.ones(1), lambda x: 1 + x, solvers), 2, lambda: None)
    tolerances = {name: [at["tolerance"] for at in gaps.values()] for name, gaps in entry["solvers"].items()}
    assert tolerances == {
        "exact": pytest.approx([1e-4, 1e-6]),
        "eager": pytest.approx([0.1, 1e-3]),
        "lost": [],
    }
    # A solver that comes near enough is asked for no more.
    asked = [name for name, _ in calls[: -2 * 4]]
    assert [asked.count(name) for name in solvers] == [1 + 6, 3, len(large.TOLERANCES)]
    assert calls[-4:] == calls[-8:-4]
    exact, _, lost = large.rows(entry)
    assert exact[:2] == ("p", "exact") and exact[4] == "1" and lost == ("", "lost", "—", "—", "")


@pytest.mark.filterwarnings("ignore:JAXopt is no longer maintained")
@pytest.mark.parametrize("make", [large.logistic, large.group_lasso, partial(large.path, count=4)])
def test_all_solvers_find_one_minimum(make, x64: None):
    if not isinstance(make, partial):
        pytest.importorskip("skglm", reason="JAXopt and skglm are in the extra bench, not in test")
    problem = make(60, 20)
    values = [problem.objective(solve(1e-9)) for solve in problem.solvers.values()]
    assert len(values) > 2 and np.ptp(values, axis=0).max() < 1e-6 * problem.objective(problem.start).min()


def test_the_page_shows_the_table(tmp_path: Path):
    entry = {
        "problem": "p",
        "solvers": {
            "s": {"0.0001": {"seconds": 0.5, "nonzero": 3}, "1e-06": {"seconds": 1.25, "nonzero": 4}}
        },
    }
    result = json.loads((render.RESULTS / "nadam.json").read_text()) | {"repeats": 3, "problems": [entry]}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(result))
    section = render.section(path)
    assert "python -m benchmarks.convex.large --repeats 3 " in section and " 1.25 |" in section
