"""FISTA: equal to the papers, its bounds on every step, exact zeros, and a search that does not stall."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import eval_params, fista, momentum, prox
from tests import reference
from tests.helpers import assert_trees_equal, falling, float_count, sphere, trajectory
from tests.problems import COMPOSITE, Problem, half_squares, lasso, worst_function

over_problems = pytest.mark.parametrize("name", COMPOSITE)


def search_scan(optimizer: Any, smooth: Any, start: Any, steps: int) -> Any:
    """(p, x, state of the search, t) after each step."""

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = jax.value_and_grad(smooth)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=smooth)
        params = optax.apply_updates(params, updates)
        (t,) = jax.tree.leaves(state.rule_state)
        return (params, state), (params, eval_params(state, params), state.search, t)

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


def searched(optimizer: Any, smooth: Any, start: Any, steps: int) -> Any:
    """The same, compiled, as NumPy arrays."""
    run = jax.jit(lambda start: search_scan(optimizer, smooth, start, steps))
    return jax.device_get(run(jax.tree.map(jnp.asarray, start)))


@functools.partial(jax.jit, static_argnums=1)
def searched_lasso(operator: Any, steps: int, start: Any, *data: Any) -> Any:
    """One program for every scale and strength."""
    return search_scan(fista(prox=operator), lambda x: half_squares(x, *data), start, steps)


@over_problems
def test_fixed_step_equals_the_paper(name: str, x64: None):
    problem = COMPOSITE[name]()
    start = np.random.default_rng(5).standard_normal(problem.size)
    optimizer = fista(1 / problem.smoothness, problem.operator, restart=None)
    ps, xs = trajectory(optimizer, problem.gradient, start, 200)
    ys, expected = reference.fista(problem.gradient, start, 1 / problem.smoothness, 200, problem.prox)
    np.testing.assert_allclose(xs, expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ps, ys, rtol=0, atol=1e-12)


def test_scheduled_rate_reaches_the_prox(x64: None):
    """The step size of a step is the one that its prox takes."""
    problem = lasso()
    optimizer = fista(lambda count: falling(float_count(count)), problem.operator, momentum=0.0, restart=None)
    xs = trajectory(optimizer, problem.gradient, np.ones(problem.size), 10)[1]
    x = np.ones(problem.size)
    for t in range(10):
        s = falling(t)
        x = problem.prox(x - s * problem.gradient(x), s)
        np.testing.assert_allclose(xs[t], x, rtol=0, atol=1e-13)


SLOW, CENTRE = np.array([1.0, 1e-3]), np.array([3.0, 2.0])


def away(x: jax.Array) -> jax.Array:
    """Least at CENTRE, from where a penalty on the squares leads away: f rises while F falls."""
    return 0.5 * jnp.sum(SLOW * (x - CENTRE) ** 2)


def valued(optimizer: Any, objective: Any) -> tuple[np.ndarray, np.ndarray]:
    """(p, whether it restarted) of 100 steps from CENTRE, given the value of this objective."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: Any, _: None) -> Any:
        params, state = carry
        value, grad = objective(params), jax.grad(away)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=away)
        last = state if hasattr(state, "rule_state") else state[-1]
        return (params + updates, state), (params, last.rule_state.rule_state == 1)

    start = jnp.asarray(CENTRE)
    run = jax.jit(lambda start: jax.lax.scan(step, (start, optimizer.init(start)), length=100)[1])
    return jax.device_get(run(start))


class TestValueRestart:
    """F = f + g decides, and f is what `value=` is."""

    PENALTY = prox.elastic_net(0.0, 0.01)

    def test_equals_a_chain_that_is_given_the_sum(self, x64: None):
        rate, operator = 0.9, self.PENALTY
        chain = optax.chain(
            optax.sgd(rate),
            nag_optax.proximal(operator, rate),
            nag_optax.accelerate(momentum.fista(), restart="value"),
        )
        expected = valued(chain, lambda x: away(x) + operator.value(x))
        actual = valued(fista(rate, operator, restart="value"), away)
        np.testing.assert_allclose(actual[0], expected[0], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(actual[1], expected[1])
        assert 0 < actual[1].sum() < 10

    def test_with_backtracking(self, x64: None):
        ps, restarted = valued(fista(prox=self.PENALTY, restart="value"), away)
        values = np.array([away(p) + self.PENALTY.value(p) for p in ps])
        # Where the value is clear of its rounding; the search may move p, by less than it moved last.
        falls = np.append(False, np.diff(values) < -1e-6 * values[1:])
        assert falls.sum() > 20 and not np.any(restarted & falls)

    def test_outside_of_a_set_f_decides(self, x64: None):
        """Along a curved edge the lookahead leaves the set again and again, where the penalty is infinite."""
        ball = prox.projection(lambda x: optax.projections.projection_l2_ball(x, 2.0))
        ps, restarted = valued(fista(0.9, ball, restart="value"), away)
        values = np.array([away(p) for p in ps])
        outside = np.linalg.norm(ps[:30], axis=1) > 2 + 1e-9
        assert outside.sum() > 5
        # Later values differ by their rounding.
        np.testing.assert_array_equal(restarted[1:30], np.diff(values[:30]) > 0)

    @pytest.mark.parametrize("rate", [0.1, None])
    def test_a_prox_without_a_value_is_refused(self, rate: float | None):
        with pytest.raises(ValueError, match=r'restart="value" needs the penalty: prox must have a method'):
            fista(rate, lambda p, s: p, restart="value")


@pytest.mark.parametrize("restart", [None, "gradient"], ids=["plain", "restart"])
@over_problems
def test_backtracking_equals_the_paper(name: str, restart: Any, x64: None):
    problem = COMPOSITE[name]()
    start = np.random.default_rng(5).standard_normal(problem.size)
    # Until the values differ by rounding alone, which the paper does not consider.
    steps = {"lasso": 20, "worst": 110, "nonnegative": 80}[name]
    optimizer = fista(prox=problem.operator, restart=restart)
    ps, xs, search, _ = searched(optimizer, problem.smooth, start, steps)
    first = float(search.step_size[0])
    records = reference.fista_with_backtracking(
        problem.smooth, problem.gradient, start, first, steps, problem.prox, restart=restart is not None
    )
    np.testing.assert_allclose(search.step_size, [r.step_size for r in records], rtol=1e-9)
    np.testing.assert_allclose(xs, [r.x for r in records], rtol=0, atol=1e-9)
    lengths = [np.linalg.norm(r.x - r.y) / r.step_size for r in records]
    np.testing.assert_allclose(search.mapping_norm, lengths, rtol=1e-6, atol=1e-9)
    # One gradient a step is given; the search counts those that it took.
    assert search.gradients[-1] + steps == records[-1].gradients
    # It shrank and grew, or the comparison says nothing.
    ratios = search.step_size[1:] / search.step_size[:-1]
    assert (ratios > 1.02).sum() > 10 and (ratios < 0.7).sum() >= 2


@over_problems
def test_bounds_hold_on_every_step(name: str, x64: None):
    problem = COMPOSITE[name]()
    best = problem.solution
    squared, least = float(best @ best), problem.objective(best)
    _, xs, search, t = searched(
        fista(prox=problem.operator, restart=None), problem.smooth, np.zeros(problem.size), 400
    )
    gaps = np.array([problem.objective(x) for x in xs]) - least
    s = search.step_size
    rounding = 1e-12 * abs(problem.objective(np.zeros(problem.size))) + 1e-14
    assert np.all(gaps <= 2 * squared / np.cumsum(np.sqrt(s)) ** 2 + rounding)
    # t of step k. The state has t of step k + 1, planned for the next step size.
    t_squared = t * (t - 1) * search.next_step_size / s
    assert np.all(gaps <= squared / (2 * s * t_squared) + rounding)
    assert np.all(s >= 0.5 / problem.smoothness * (1 - 1e-6))
    n = np.arange(1, 401)
    assert np.all(gaps <= 4 * problem.smoothness * squared / n**2 + rounding)


@over_problems
def test_fixed_step_bound_holds_on_every_step(name: str, x64: None):
    problem = COMPOSITE[name]()
    best = problem.solution
    optimizer = fista(1 / problem.smoothness, problem.operator, restart=None)
    xs = trajectory(optimizer, problem.gradient, np.zeros(problem.size), 400)[1]
    gaps = np.array([problem.objective(x) for x in xs]) - problem.objective(best)
    n = np.arange(1, 401)
    assert np.all(gaps <= 2 * problem.smoothness * (best @ best) / (n + 1) ** 2 + 1e-13)


def test_a_rule_without_retiming_never_grows(x64: None):
    """s falls at the same point: no gradient beyond the given one, and the plain bound."""
    problem, rule = worst_function(60), momentum.fista()._replace(retime=None)
    _, xs, search, _ = searched(
        fista(momentum=rule, restart=None), problem.smooth, np.zeros(problem.size), 300
    )
    assert np.all(np.diff(search.step_size) <= 0)
    assert search.gradients[-1] == 0
    best = problem.solution
    gaps = np.array([problem.objective(x) for x in xs]) - problem.objective(best)
    n = np.arange(1, 301)
    assert np.all(gaps <= 2 * (best @ best) / search.step_size / (n + 1) ** 2 + 1e-14)


@over_problems
def test_gradients_a_step(name: str, x64: None):
    problem = COMPOSITE[name]()
    # Until the values differ by rounding alone, where each step takes one more.
    steps = {"lasso": 15, "worst": 100, "nonnegative": 100}[name]
    _, _, search, _ = searched(fista(prox=problem.operator), problem.smooth, np.zeros(problem.size), steps)
    assert 0.1 * steps < search.gradients[-1] <= 0.35 * steps
    # The first step, and the first after a restart, look for the scale.
    assert search.values[-1] <= 1.35 * steps + 12


def test_restart_helps(x64: None):
    problem = worst_function(60)
    least = problem.objective(problem.solution)

    def steps(restart: Any) -> int:
        _, xs, _, _ = searched(fista(restart=restart), problem.smooth, np.zeros(problem.size), 1500)
        gaps = np.array([problem.objective(x) for x in xs]) - least
        return int(np.argmax(gaps < 1e-9 * (problem.objective(np.zeros(problem.size)) - least)))

    assert 0 < steps("gradient") < 0.5 * steps(None)


@pytest.mark.parametrize("rate", [None, 1.0], ids=["search", "rate"])
def test_zeros_are_exact(rate: float | None):
    problem = lasso(dtype=np.float32)
    optimizer = fista(rate, problem.operator)
    xs = (
        searched(optimizer, problem.smooth, np.zeros(problem.size, np.float32), 200)[1]
        if rate is None
        else (trajectory(optimizer, problem.gradient, np.zeros(problem.size, np.float32), 200)[1])
    )
    zeros = np.abs(lasso().solution) < 1e-9
    assert 10 < zeros.sum() < 55
    np.testing.assert_array_equal(xs[-1] == 0, zeros)


def test_iterates_are_feasible():
    box = dataclasses.replace(lasso(dtype=np.float32), operator=lambda p, s: jnp.clip(p, 0.1, 0.3))
    xs = searched(fista(prox=box.operator), box.smooth, np.zeros(box.size, np.float32), 50)[1]
    assert xs.min() == np.float32(0.1) and xs.max() == np.float32(0.3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-1, 1e1, 1e3, 1e6, 1e9])
def test_every_scale(dtype: Any, scale: float, x64: None):
    """The first step finds s, and rounding does not drive it to zero afterwards."""
    problem = lasso(scale=scale, dtype=dtype)
    _, xs, search, _ = jax.device_get(
        searched_lasso(problem.operator, 600, np.zeros(60, dtype), *problem.data)
    )
    assert np.all(np.isfinite(xs))
    # Never below what 1/L asks for, and not lost in either direction.
    products = search.step_size * scale
    assert products.min() > 0.2 and products.max() < 100
    exact = lasso(scale=scale)
    best = exact.solution
    gap = exact.objective(xs[-1].astype(float)) - exact.objective(best)
    assert gap <= (1e-6 if dtype == np.float32 else 1e-13) * exact.objective(best)
    assert search.values[150] < 150 * 1.3 + 15
    # Where no value can tell, it may only fall.
    assert search.next_step_size[-1] == search.step_size[-1]


def test_steps_do_not_depend_on_the_scale(x64: None):
    runs = []
    for scale in (1.0, 4.0, 1e4, 1e200):
        problem = lasso(scale=scale)
        _, xs, search, _ = jax.device_get(searched_lasso(problem.operator, 20, np.zeros(60), *problem.data))
        runs.append((xs, search.step_size * scale, search.values))
    # Exactly so by powers of two, to rounding else.
    for x, s, values in runs[1:]:
        np.testing.assert_allclose(x, runs[0][0], rtol=0, atol=1e-9)
        np.testing.assert_allclose(s, runs[0][1], rtol=1e-6)
        np.testing.assert_array_equal(values, runs[0][2])


def test_tree_equals_one_vector(x64: None):
    problem = lasso()

    def of_tree(tree: Any) -> jax.Array:
        return problem.smooth(jnp.concatenate([tree["a"].ravel(), tree["b"]]))

    start = {"a": np.zeros((4, 5)), "b": np.zeros(40)}
    _, trees, search, _ = searched(fista(prox=problem.operator), of_tree, start, 80)
    _, xs, expected, _ = searched(fista(prox=problem.operator), problem.smooth, np.zeros(60), 80)
    np.testing.assert_allclose(trees["a"].reshape(80, 20), xs[:, :20], rtol=0, atol=1e-10)
    np.testing.assert_array_equal(search.gradients, expected.gradients)


def test_complex_equals_two_real_ones(x64: None):
    matrix = np.random.default_rng(0).standard_normal((6, 3)) + 1j * np.random.default_rng(1).standard_normal(
        (6, 3)
    )

    def complex_loss(z: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(matrix @ z - 1.0) ** 2)

    def real_loss(pair: jax.Array) -> jax.Array:
        return complex_loss(jax.lax.complex(pair[0], pair[1]))

    optimizer = fista()

    @jax.jit
    def step(z: jax.Array, state: Any) -> Any:
        value, grad = jax.value_and_grad(complex_loss)(z)
        grad = grad.conj()
        updates, state = optimizer.update(grad, state, z, value=value, grad=grad, value_fn=complex_loss)
        return optax.apply_updates(z, updates), state

    z, state = jnp.zeros(3, complex), optimizer.init(jnp.zeros(3, complex))
    for _ in range(30):
        z, state = step(z, state)
    ps = searched(optimizer, real_loss, np.zeros((2, 3)), 30)[0]
    np.testing.assert_allclose(z, ps[-1][0] + 1j * ps[-1][1], rtol=0, atol=1e-9)


def test_none_gradients_and_named_arguments():
    def loss(params: Any, shift: jax.Array) -> jax.Array:
        return jnp.sum((params["a"] - shift) ** 2) + jnp.sum(params["b"])

    optimizer, params = fista(prox=prox.l1(0.0)), {"a": jnp.zeros(3), "b": jnp.ones(2)}

    @jax.jit
    def step(params: Any, state: Any, shift: jax.Array) -> Any:
        value, grad = jax.value_and_grad(loss)(params, shift)
        grad = {**grad, "b": None}
        updates, state = optimizer.update(
            grad, state, params, value=value, grad=grad, value_fn=loss, shift=shift, other=None
        )
        assert updates["b"] is None
        return {**params, "a": optax.apply_updates(params["a"], updates["a"])}, state

    state = optimizer.init(params)
    for _ in range(20):
        params, state = step(params, state, jnp.array(2.0))
    np.testing.assert_allclose(params["a"], 2.0, rtol=1e-5)


def test_nan_ends_the_search():
    optimizer, params = fista(), jnp.ones(2)
    state = optimizer.init(params)

    def broken(p: jax.Array) -> jax.Array:
        return jnp.sum(p) * jnp.nan

    _, state = optimizer.update(params, state, params, value=jnp.array(1.0), grad=params, value_fn=broken)
    assert int(state.search.values) <= 300
    nan = jnp.full(2, jnp.nan)
    _, state = optimizer.update(nan, state, params, value=jnp.array(jnp.nan), grad=nan, value_fn=sphere)
    assert int(state.search.values) <= 301


def test_recovers_from_an_infinite_trial(x64: None):
    """The first trial leaves the domain of a barrier."""

    def barrier(p: jax.Array) -> jax.Array:
        return jnp.sum(p**2 * 50 - jnp.log(p))

    ps = searched(fista(), barrier, np.array([1.0, 5.0]), 60)[0]
    np.testing.assert_allclose(ps[-1], 0.1, rtol=1e-6)


def test_eval_params_before_the_first_step_and_through_wrappers():
    params = {"a": jnp.array([1.0, -2.0])}
    optimizer = optax.chain(optax.clip(1e9), optax.apply_if_finite(fista(0.1, prox.l1(0.1)), 3))
    state = optimizer.init(params)
    assert_trees_equal(eval_params(state, params), params)
    updates, state = optimizer.update({"a": jnp.ones(2)}, state, params)
    x = eval_params(state, optax.apply_updates(params, updates))
    np.testing.assert_allclose(x["a"], [0.89, -2.09], rtol=1e-6)
    doubled = optax.chain(fista(0.1, prox.l1(0.1)), nag_optax.accelerate(0.9))
    with pytest.raises(ValueError, match="two accelerators hold an offset for \\['a'\\]"):
        eval_params(doubled.init(params), params)
    with pytest.raises(ValueError, match="pass the parameters that this state was made for"):
        eval_params(state, {"a": jnp.ones(3)})


def test_an_objective_that_is_a_number_of_python():
    """As one that depends on nothing may be."""
    params, flat, optimizer = jnp.ones(2), jnp.zeros(2), nag_optax.fista()
    state = optimizer.init(params)
    step, _ = optimizer.update(flat, state, params, value=1.0, grad=flat, value_fn=lambda _: 1.0)
    np.testing.assert_array_equal(step, flat)


@pytest.mark.parametrize("missing", ["value", "grad", "value_fn"])
def test_missing_arguments_are_named(missing: str):
    optimizer, params = fista(), jnp.ones(2)
    arguments = {"value": jnp.array(2.0), "grad": params, "value_fn": sphere, missing: None}
    with pytest.raises(ValueError, match=rf"backtracks and needs {missing}: call"):
        optimizer.update(params, optimizer.init(params), params, **arguments)


def test_bad_input_is_named():
    for arguments, error, message in (
        (
            {"learning_rate": -1.0},
            ValueError,
            r"learning_rate must be a number in \[0, inf\).*None; got -1.0",
        ),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be"),
        ({"prox": 0.5}, TypeError, "prox must be an operator"),
        ({"learning_rate": 0.1, "prox": prox.l1}, TypeError, r"call it, .* nag_optax.prox.l1\(...\)"),
        # Its second argument is a scale: the step size would take its place without a word.
        ({"prox": optax.projections.projection_simplex}, TypeError, "nag_optax.prox.projection"),
        ({"momentum": momentum.fista()._replace(evaluation=4.5)}, ValueError, "evaluation = 4.5"),
        ({"momentum": 1.5}, ValueError, r"momentum must be a number in \[0, 1\)"),
        ({"restart": "now"}, ValueError, "restart must be"),
        ({"accumulator_dtype": jnp.int32}, ValueError, "accumulator_dtype"),
    ):
        with pytest.raises(error, match=message):
            fista(**arguments)
    params = jnp.ones(2)
    for rate in (0.1, None):
        optimizer = fista(rate, lambda p, s: p[:1])
        arguments = {"value": jnp.array(2.0), "grad": params, "value_fn": sphere}
        with pytest.raises(ValueError, match=r"prox must keep shapes: at the root has \(2,\), got \(1,\)"):
            optimizer.update(params, optimizer.init(params), params, **arguments)
        with pytest.raises(ValueError, match="fista needs the parameters"):
            optimizer.update(params, optimizer.init(params), **arguments)
    with pytest.raises(TypeError, match="prox must keep dtypes: at the root has float32, got bfloat16"):
        optimizer = fista(0.1, lambda p, s: p.astype(jnp.bfloat16))
        optimizer.update(params, optimizer.init(params), params)
    with pytest.raises(TypeError, match="value_fn must be callable"):
        fista().update(params, fista().init(params), params, value=jnp.array(1.0), grad=params, value_fn=3)


def test_problem_is_what_it_says(x64: None):
    """The prox and the gradients of these tests, checked by differences."""
    for make in COMPOSITE.values():
        problem: Problem = make()
        x = np.random.default_rng(0).standard_normal(problem.size)
        np.testing.assert_allclose(jax.grad(problem.smooth)(jnp.asarray(x)), problem.gradient(x), atol=1e-9)
