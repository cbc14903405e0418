"""The convex benchmark: its minima are minima, its counts count, and its verdicts are right."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nag_optax
from benchmarks.convex import __main__ as program
from benchmarks.convex import measure, problems, scaling, solvers, tables
from benchmarks.convex.counting import Counted


def duality_gap(problem: problems.Problem, value: float) -> float:
    """Of a lasso: F − the dual objective, which no F* can exceed."""
    matrix, target, _ = problem.data
    x = nag_optax.minimize(
        problem.smooth, jnp.zeros(problem.size), prox=problem.prox, tol=1e-14, max_steps=100_000
    ).params
    residual = target - matrix @ np.asarray(x)
    dual = residual * min(1.0, problem.penalty / np.abs(matrix.T @ residual).max())  # pyright: ignore[reportOperatorIssue]
    return value - float(0.5 * target @ target - 0.5 * (target - dual) @ (target - dual))


def test_minimum_of_the_lasso_is_that_of_its_dual(x64: None):
    problem = problems.lasso("small", 30, 40)
    value = problems.minimum(problem)
    assert abs(duality_gap(problem, value)) < 1e-12 * value


@pytest.mark.parametrize("make", [problems.nonnegative_least_squares, None], ids=["nnls", "worst"])
def test_no_iterate_is_below_the_minimum(make: Any, x64: None):
    problem = problems.worst_function(20) if make is None else make(30, 20)
    value = problems.minimum(problem)
    trace = solvers.ours("ours", backtracking=False).trace(problem, 2000)
    # NaN from where the run stops.
    trace = trace[np.isfinite(trace)]
    assert len(trace) > 50
    assert np.all(trace >= value - 1e-12 * abs(value))
    assert trace[-1] - value < 1e-10 * abs(value)
    if make is None:
        np.testing.assert_allclose(value, -0.5 * (1 - 1 / 21), rtol=1e-12)


@pytest.mark.exhaustive
def test_counts_are_those_of_the_solver(x64: None):
    """Also where the values of f differ by rounding alone, and the search asks the gradient."""
    problem = problems.lasso("small", 30, 40)
    for backtracking in (False, True):
        counted = Counted(problem.smooth)
        solver = solvers.ours("ours", backtracking)
        jax.block_until_ready(solver.program(problem, counted.fun, 80)())
        jax.effects_barrier()
        solution = nag_optax.minimize(
            problem.smooth,
            jnp.zeros(40),
            prox=problem.prox,
            learning_rate=None if backtracking else 1 / problem.smoothness,
            tol=0.0,
            max_steps=80,
        )
        assert int(solution.steps) == 80
        assert counted.gradients == int(solution.gradient_evaluations) > (1.5 * 80 if backtracking else 80)
        # `minimize` counts a value with each gradient of its own; here a gradient is no value.
        assert counted.values == int(solution.value_evaluations) - 80


@pytest.mark.exhaustive
def test_steps_to_a_gap_are_the_first(x64: None):
    problem = problems.worst_function(10)
    solver = solvers.ours("ours", backtracking=False)
    values = solver.trace(problem, 100)
    least = problems.minimum(problem)
    result = measure.measure(problem, 1, lambda: None, [solver])
    for gap, at in zip(problems.GAPS, result["solvers"]["ours"], strict=True):
        n = at["iterations"]
        assert values[n - 1] - least <= gap * -least < values[n - 2] - least
        assert at["gradients"] >= n and at["milliseconds"] > 0
    (row,) = tables.rows([result])[0]
    assert row[:2] == (problem.name, "ours") and len(row) == 10


def test_false_claims_are_told_from_true_ones(x64: None):
    exact = problems.lasso("small", 30, 40, 1e3)
    x = nag_optax.minimize(exact.smooth, jnp.zeros(40), prox=exact.prox, tol=1e-8).params
    solution = np.asarray(x)
    outcome = scaling.outcome
    assert outcome(exact, "float64", solution, True) == "converged"
    assert outcome(exact, "float64", solution, False) == "stalled"
    assert outcome(exact, "float64", solution + 1e-3, True) == "false claim"
    assert outcome(exact, "float64", solution * np.nan, True) == "NaN"


@pytest.mark.exhaustive
def test_the_result_says_how_often_it_was_timed(tmp_path, monkeypatch, capsys, x64: None):
    outcome = {"precision": "float64", "smoothness": 1.0, "solver": "ours", "outcome": "NaN", "iterations": 1}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)  # jaxopt is not needed here
    monkeypatch.setattr(problems, "problems", lambda: [problems.worst_function(10)])
    monkeypatch.setattr(solvers, "solvers", lambda: [solvers.ours("ours", backtracking=False)])
    monkeypatch.setattr(scaling, "measure", lambda advance: [outcome])
    path = tmp_path / "convex.json"
    program.main(["--repeats", "2", "--json", str(path)])
    result = json.loads(path.read_text())
    assert result["repeats"] == 2
    tables_shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert tables_shown[2].split("|")[1].strip() == result["problems"][0]["name"]
