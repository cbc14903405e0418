"""The analytic problems: descents against closed forms, minima against their gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nag_optax.compare.problems import descend, make_problem, score
from nag_optax.compare.spec import CONTENDERS

PROBLEMS = ("quadratic", "rosenbrock", "logistic")


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_solution_is_stationary_and_the_curvature_is_that_of_the_hessian(name, x64):
    problem = make_problem(name)
    solution = jnp.array(problem.solution)
    np.testing.assert_allclose(jax.grad(problem.objective)(solution), 0.0, atol=1e-12)
    curvatures = np.linalg.eigvalsh(jax.hessian(problem.objective)(solution))
    assert curvatures[0] > 0
    if name == "logistic":  # L bounds the curvature everywhere, and is reached where all margins are 0.
        curvatures = np.linalg.eigvalsh(jax.hessian(problem.objective)(jnp.zeros(2)))
    np.testing.assert_allclose(curvatures[-1], problem.curvature, rtol=1e-9)


def test_gradient_descent_on_the_quadratic_is_its_closed_form():
    """xᵢ(n) = (1 − lr·λᵢ)ⁿ xᵢ(0); and beyond 2/L it diverges."""
    problem = make_problem("quadratic")
    trials = descend(problem, CONTENDERS["sgd"], "constant", 600, (0.01, 0.021))
    factors = (1 - 0.01 * np.array([1.0, 100.0])) ** np.arange(601)[:, None]
    path = factors * np.array(problem.start)
    np.testing.assert_allclose(trials[0]["path"], path, rtol=1e-12, atol=1e-15)
    gap = 0.5 * (path**2 @ [1.0, 100.0])
    np.testing.assert_allclose(trials[0]["gap"], gap, rtol=1e-10)
    for share, steps in trials[0]["steps_to_gap"].items():
        assert gap[steps] <= float(share) * gap[0] < gap[steps - 1]
    assert trials[0]["final_gap"] == pytest.approx(gap[-1] / gap[0])
    assert not trials[0]["diverged"] and trials[1]["diverged"] and score(trials[1]) is None


def test_the_path_of_nag_is_that_of_the_iterate_to_evaluate():
    """Nesterov's two sequences on the quadratic: x⁺ = y − lr·g(y), y⁺ = x⁺ + 0.9·(x⁺ − x)."""
    problem = make_problem("quadratic")
    (trial,) = descend(problem, CONTENDERS["nag"], "constant", 50, (0.005,))
    curvatures = np.array([1.0, 100.0])
    x = y = np.array(problem.start)
    for n in range(1, 51):
        x, previous = y - 0.005 * curvatures * y, x
        y = x + 0.9 * (x - previous)
        np.testing.assert_allclose(trial["path"][n], x, rtol=1e-11, atol=1e-13)


def test_double_precision_ends_with_the_descent():
    problem = make_problem("quadratic")
    (trial,) = descend(problem, CONTENDERS["sgd"], "constant", 1, (0.01,))
    assert trial["path"].dtype == np.float64 and jnp.array(1.0).dtype == np.float32
    with pytest.raises(ZeroDivisionError):
        descend(problem._replace(objective=lambda x: 1 / 0), CONTENDERS["sgd"], "constant", 1, (0.01,))
    assert jnp.array(1.0).dtype == np.float32


def test_a_schedule_decays_over_the_steps():
    problem = make_problem("quadratic")
    (trial,) = descend(problem, CONTENDERS["sgd"], "linear", 4, (0.004,))
    factors = np.cumprod(1 - 0.004 * np.array([1.0, 0.75, 0.5, 0.25])[:, None] * np.array([1.0, 100.0]), 0)
    np.testing.assert_allclose(trial["path"][1:], factors * np.array(problem.start), rtol=1e-6)


def test_weight_decay_does_not_move_the_solution():
    (trial,) = descend(make_problem("rosenbrock"), CONTENDERS["nadamw"], "cosine", 20_000, (0.05,))
    np.testing.assert_allclose(trial["path"][-1], [1.0, 1.0], atol=1e-7)


def test_steps_count_until_the_gap_stays_small():
    """An oscillation that only passes through the minimum has not reached it."""
    problem = make_problem("quadratic")
    (trial,) = descend(problem, CONTENDERS["momentum"], "constant", 400, (0.005,))
    below = trial["gap"] <= 1e-3 * trial["gap"][0]
    steps = trial["steps_to_gap"]["0.001"]
    assert below[steps:].all() and not below[steps - 1]
    assert below[:steps].any()


def test_the_score_prefers_fewer_steps_then_the_smaller_gap():
    def scored(steps, gap):
        found = score({"diverged": False, "final_gap": gap, "steps_to_gap": {"0.001": 1, "1e-06": steps}})
        assert found is not None
        return found

    ranked = [scored(10, 1e-7), scored(11, 1e-9), scored(None, 1e-5), scored(None, 1e-4)]
    assert sorted(ranked) == ranked and ranked[3] == (math.inf, 1e-4)


def test_the_grid_is_centred_on_one_over_l_or_on_a_share_of_the_way():
    problem = make_problem("quadratic")
    assert problem.learning_rate(CONTENDERS["sgd"]) == problem.learning_rate(CONTENDERS["nag"]) == 0.01
    assert problem.learning_rate(CONTENDERS["adam"]) == pytest.approx(math.hypot(1.0, 0.3) / 20)
