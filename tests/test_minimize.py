"""`minimize`: its answers, its stopping test, its derivatives, and what it refuses."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOptionalMemberAccess=false

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nag_optax
from nag_optax import Reason, minimize, prox
from nag_optax.solver import program as solver
from tests.helpers import exhaustive, float_count, rising, sphere, wavering
from tests.problems import COMPOSITE, Problem, half_squares, lasso, worst_function


def relative_mapping(problem: Problem, x: np.ndarray, step_size: float | None = None) -> float:
    """M(x)/max(‖∇f(0)‖, ‖∇f(x)‖), in float64 and with a step size of its own."""
    s = 1 / problem.smoothness if step_size is None else step_size
    x = np.asarray(x, np.float64)
    mapping = np.linalg.norm(x - problem.prox(x - s * problem.gradient(x), s)) / s
    scale = max(np.linalg.norm(problem.gradient(v)) for v in (np.zeros(problem.size), x))
    return float(mapping / scale)


@pytest.mark.parametrize("name", COMPOSITE)
@pytest.mark.parametrize("rate", [False, True], ids=["search", "rate"])
def test_finds_the_minimum(name: str, rate: bool, x64: None):
    problem = COMPOSITE[name]()
    solution = minimize(
        problem.smooth,
        jnp.zeros(problem.size),
        prox=problem.operator,
        learning_rate=1 / problem.smoothness if rate else None,
        tol=1e-7,
    )
    assert bool(solution.converged) and Reason(int(solution.reason)) is Reason.CONVERGED
    # The mapping with 1/L is at most that with a larger step size times their ratio.
    assert relative_mapping(problem, solution.params) < 1e-6
    best = problem.solution
    x = np.asarray(solution.params)
    assert problem.objective(x) - problem.objective(best) <= 1e-6 * abs(problem.objective(best))
    known = problem.objective(x) if hasattr(problem.operator, "value") else problem.smooth(x)
    np.testing.assert_allclose(solution.value, known, rtol=1e-12)
    steps, gradients = int(solution.steps), int(solution.gradient_evaluations)
    # The last steps of a search, which the rounding of f decides, take a second gradient.
    assert steps + (0 if rate else 0.05 * steps + 1) < gradients <= (steps + 3 if rate else 1.4 * steps + 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tol", [1e-5, 1e-14])
def test_every_scale_and_no_false_convergence(dtype: Any, tol: float, x64: None):
    steps = []
    for scale in (1e-30, 1e-1, 1.0, 1e3, 1e6, 1e9, 1e30) if tol == 1e-5 else (1e-1, 1e9):
        problem = lasso(scale=scale, dtype=dtype)
        # The data as arguments: one program.
        solution = minimize(
            half_squares,
            jnp.zeros(60, dtype),
            prox=problem.operator,
            args=problem.data,
            tol=tol,
            max_steps=2000,
        )
        reached = relative_mapping(lasso(scale=scale), solution.params)
        assert np.all(np.isfinite(solution.params))
        if tol == 1e-5:
            assert Reason(int(solution.reason)) is Reason.CONVERGED and reached < 2e-5
            steps.append(int(solution.steps))
        elif dtype == np.float32:
            # No float32 number is that close to the minimum, and it says so in time.
            assert Reason(int(solution.reason)) is Reason.STALLED and reached < 1e-6
            assert int(solution.steps) < 500
        else:
            # At the edge of float64 either answer can be right; the claim must be.
            assert not solution.converged or reached < 1e-13
            assert Reason(int(solution.reason)) in (Reason.CONVERGED, Reason.STALLED)
    assert len(set(steps)) <= 1


def test_steps_do_not_depend_on_units(x64: None):
    """c·F(x/a), powers of two exactly; from zero, where f = 0 too."""

    problem = worst_function(60)

    def scaled(x: jax.Array, factor: jax.Array, unit: jax.Array) -> jax.Array:
        return factor * problem.smooth(x / unit)

    def steps(factor: float, unit: float) -> tuple[int, int]:
        args = jnp.array(factor), jnp.array(unit)
        solution = minimize(scaled, jnp.zeros(problem.size), args=args)
        return int(solution.steps), int(solution.gradient_evaluations)

    assert steps(1.0, 1.0) == steps(2.0**20, 1.0) == steps(1.0, 2.0**-9) == steps(2.0**-11, 2.0**7)


def test_zero_steps_to_a_minimum_and_a_zero_solution():
    at_minimum = minimize(sphere, jnp.zeros(3))
    assert bool(at_minimum.converged) and int(at_minimum.steps) == 1
    all_zero = minimize(lasso(dtype=np.float32).smooth, jnp.zeros(60), prox=prox.l1(1e3))
    assert bool(all_zero.converged) and not np.any(all_zero.params)


def test_reasons_and_the_last_finite_iterate():
    problem = worst_function(60)
    few = minimize(problem.smooth, jnp.zeros(60), max_steps=3)
    assert Reason(int(few.reason)) is Reason.MAX_STEPS and int(few.steps) == 3 and not few.converged
    expected = jnp.linalg.norm(jax.grad(problem.smooth)(few.params))
    np.testing.assert_allclose(few.gradient_mapping_norm, expected, rtol=1e-5)

    def cliff(x: jax.Array) -> jax.Array:
        """Falls towards a point beyond which there are no numbers."""
        return jnp.sum(jnp.where(x < 2.0, (x - 5.0) ** 2, jnp.nan))

    broken = minimize(cliff, jnp.zeros(2), learning_rate=0.1)
    assert Reason(int(broken.reason)) is Reason.NAN and not broken.converged
    assert np.all(np.isfinite(broken.params)) and np.all(np.asarray(broken.params) > 0)
    never = minimize(lambda x: jnp.sum(x) * jnp.nan, jnp.ones(2))
    assert Reason(int(never.reason)) is Reason.NAN and int(never.steps) == 1
    np.testing.assert_array_equal(never.params, 1.0)
    # A step without momentum is not tried twice.
    beyond = minimize(lambda x: 1e3 * jnp.sum(x), jnp.ones(2), learning_rate=1e38)
    assert Reason(int(beyond.reason)) is Reason.NAN and int(beyond.steps) == 1
    np.testing.assert_array_equal(beyond.params, 1.0)


def test_aux_history_and_trees():
    def loss(params: Any, target: jax.Array) -> Any:
        residual = params["a"] - target
        return jnp.sum(residual**2) + jnp.sum(params["b"] ** 2), residual

    start = {"a": jnp.zeros((2, 2)), "b": jnp.ones(3)}
    solution: Any = minimize(
        loss, start, has_aux=True, args=(jnp.eye(2),), prox=prox.l1(0.5), history=True, max_steps=50
    )
    np.testing.assert_allclose(solution.params["a"], 0.75 * np.eye(2), atol=1e-5)
    np.testing.assert_array_equal(solution.params["b"], 0.0)
    np.testing.assert_allclose(solution.aux, solution.params["a"] - np.eye(2), atol=1e-7)
    steps = int(solution.steps)
    for record in solution.history:
        assert record.shape == (50,)
        np.testing.assert_array_equal(np.isnan(record), np.arange(50) >= steps)
    np.testing.assert_allclose(solution.history.value[steps - 1], solution.value, rtol=1e-6)
    plain = minimize(loss, start, has_aux=True, args=(jnp.eye(2),), prox=prox.l1(0.5), max_steps=50)
    assert plain.history is None and int(plain.steps) == steps
    counted: Any = minimize(
        loss,
        start,
        has_aux=True,
        args=(jnp.eye(2),),
        prox=prox.l1(0.5),
        learning_rate=0.25,
        history=True,
        max_steps=50,
    )
    assert bool(counted.converged) and int(counted.steps) < 50
    assert int(counted.value_evaluations) == 2 * int(counted.steps) + 1
    # From x₀ a proximal step of ¼ goes 0.375 along two coordinates and 0.625 along three.
    expected = np.sqrt(2 * 0.375**2 + 3 * 0.625**2) / 0.25
    np.testing.assert_allclose(counted.history.gradient_mapping_norm[0], expected, rtol=1e-6)


def test_lanes_equal_solo_runs(x64: None):
    problem = lasso()

    def solve(strength: jax.Array) -> Any:
        return minimize(problem.smooth, jnp.zeros(60), prox=prox.l1(strength), tol=1e-8)

    strengths = jnp.array([1e-3, 0.02, 0.05, 100.0])
    lanes = jax.jit(jax.vmap(solve))(strengths)
    for i, strength in enumerate(strengths):
        alone = solve(strength)
        assert int(lanes.steps[i]) == int(alone.steps)
        assert int(lanes.reason[i]) == int(alone.reason) == Reason.CONVERGED
        np.testing.assert_allclose(lanes.params[i], alone.params, rtol=0, atol=1e-10)
    assert len(set(np.asarray(lanes.steps).tolist())) == 4


@pytest.fixture
def counted_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of its own: a full one drops a program for each new one."""
    monkeypatch.setattr(solver, "_programs", type(solver._programs)())


def programs() -> int:
    """How many `minimize` has compiled."""
    return len(solver._programs)


def test_compiles_once(counted_from_zero: None):
    def loss(x: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.sum((x - target) ** 2)

    minimize(loss, jnp.zeros(3), prox=prox.l1(0.1), args=(jnp.ones(3),))
    first = programs()
    for value in (0.2, 0.3):
        again = minimize(
            loss, jnp.ones(3), prox=prox.l1(value), args=(jnp.full(3, 2.0, jnp.float32),), tol=1e-5
        )
    assert programs() == first
    np.testing.assert_allclose(again.params, 2.0 - 0.15, rtol=1e-5)


class Fit:
    def __init__(self, target: jax.Array) -> None:
        self.target = target

    def loss(self, x: jax.Array) -> jax.Array:
        return jnp.sum((x - self.target) ** 2)


shift = jnp.zeros(2)


def shifted(x: jax.Array) -> jax.Array:
    return jnp.sum((x - shift) ** 2)


def test_the_answer_is_that_of_the_function_as_it_is_now(counted_from_zero: None):
    """A method of an object that changed, a global that was rebound, a cell: one program, other arrays."""
    global shift
    cell, fit, calls = jnp.ones(2), Fit(jnp.ones(2)), 0

    def closing(x: jax.Array) -> jax.Array:
        nonlocal calls
        calls += 1
        return jnp.sum((x - cell) ** 2)

    before = programs()
    for value in (2.0, 5.0):
        cell = fit.target = shift = jnp.full(2, value, jnp.float32)
        for fun in (closing, fit.loss, shifted):
            np.testing.assert_allclose(minimize(fun, jnp.zeros(2)).params, value, rtol=1e-5)
        assert programs() == before + 1
    calls = 0
    minimize(closing, jnp.zeros(2))
    assert calls == 1


def test_the_answer_is_that_of_the_prox_and_the_schedule_as_they_are_now(counted_from_zero: None):
    """An operator that is made inside the call compiles nothing either."""
    rate, bound = jnp.array([0.1, 0.1]), jnp.ones(2)

    def solve() -> Any:
        operators = prox.projection(lambda x: jnp.minimum(x, bound)), lambda x, _: jnp.minimum(x, bound)
        return [
            minimize(
                lambda x: jnp.sum((x - 4.0) ** 2),
                jnp.zeros(2),
                prox=operator,
                learning_rate=lambda _: rate[0],
                momentum=nag_optax.momentum.chambolle_dossal(3.0),
            )
            for operator in operators
        ]

    few, before = solve(), programs()
    bound, rate = jnp.full(2, 2.0, jnp.float32), jnp.array([0.3, 0.3])
    more = solve()
    assert programs() == before
    for one, other in zip(few, more, strict=True):
        np.testing.assert_array_equal([one.params, other.params], [[1.0, 1.0], [2.0, 2.0]])
        assert int(other.steps) < int(one.steps)


def test_a_derivative_rule_of_the_users_is_that_of_now():
    """No trace of f shows its rule, so that a program with one is not used again."""
    slope = jnp.ones(2)

    @jax.custom_jvp
    def loss(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(x**2)

    loss.defjvp(lambda primals, tangents: (loss(*primals), jnp.vdot(primals[0] - slope, tangents[0])))
    for value in (1.0, 2.0):
        slope = jnp.full(2, value, jnp.float32)
        solution = minimize(loss, jnp.zeros(2), learning_rate=0.5)
        np.testing.assert_allclose(solution.params, value, rtol=1e-5)


def test_a_history_raises_no_false_alarm():
    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum((x - 1.0) ** 2)

    with jax.debug_nans(True):
        watched = minimize(loss, jnp.zeros(2), history=True, max_steps=50)
        with pytest.raises(FloatingPointError):
            minimize(lambda x: jnp.sum(x) * jnp.nan, jnp.zeros(2)).params.block_until_ready()
    plain = minimize(loss, jnp.zeros(2), history=True, max_steps=50)
    for there, here in zip(watched.history, plain.history, strict=True):
        np.testing.assert_array_equal(there[: plain.steps], here[: plain.steps])
        assert np.all(np.isposinf(there[plain.steps :])) and np.all(np.isnan(here[plain.steps :]))


@pytest.mark.four_devices
def test_sharded_parameters():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    start = jax.device_put(jnp.zeros(8), NamedSharding(mesh, PartitionSpec("data")))
    target = jnp.arange(8.0)
    solution = minimize(lambda x: jnp.sum((x - target) ** 2), start, prox=prox.l1(2.0))
    np.testing.assert_allclose(solution.params, np.maximum(np.arange(8.0) - 1, 0), atol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [optax.sgd(0.3), optax.adam(0.05), nag_optax.nag(0.3, 0.5), optax.lbfgs()],
    ids=["sgd", "adam", "nag", "lbfgs"],
)
def test_any_optimizer(optimizer: Any, standard_promotion: None):
    curvature = jnp.array([1.0, 3.0])

    def bowl(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(curvature * (x - 1.0) ** 2)

    solution = minimize(bowl, jnp.zeros(2), optimizer=optimizer, tol=1e-4)
    assert bool(solution.converged)
    np.testing.assert_allclose(solution.params, 1.0, atol=1e-3)
    slope = jnp.linalg.norm(jax.grad(bowl)(solution.params))
    np.testing.assert_allclose(solution.gradient_mapping_norm, slope, rtol=1e-4, atol=1e-7)


def test_an_optimizer_with_a_prox(x64: None):
    problem = lasso()
    inner = nag_optax.fista(1.0, problem.operator, momentum=0.5, restart=None)
    solution = minimize(
        problem.smooth, jnp.zeros(60), optimizer=inner, prox=problem.operator, learning_rate=1.0, tol=1e-8
    )
    assert bool(solution.converged) and relative_mapping(problem, solution.params) < 1e-8


class TestDerivatives:
    """Against central differences of the solution itself."""

    MATRIX = np.random.default_rng(0).standard_normal((30, 12))
    TARGET = MATRIX @ (np.arange(12) % 3) + 0.1 * np.random.default_rng(1).standard_normal(30)

    @staticmethod
    def loss(x: jax.Array, target: jax.Array, ridge: jax.Array) -> jax.Array:
        residual = jnp.asarray(TestDerivatives.MATRIX) @ x - target
        return 0.5 * jnp.sum(residual**2) + 0.5 * ridge * jnp.sum(x**2)

    @pytest.mark.parametrize("penalty", [exhaustive(False), True], ids=["smooth", "l1"])
    def test_forward_and_reverse(self, penalty: bool, x64: None):
        """With respect to strength, ridge and target, of ridge regression, lasso and elastic net."""
        rng = np.random.default_rng(2)
        weights, direction = jnp.asarray(rng.standard_normal(12)), jnp.asarray(rng.standard_normal(30))
        target, one, zero, h = jnp.asarray(self.TARGET), jnp.ones([]), jnp.zeros([]), 1e-5

        def solve(strength: jax.Array, ridge: jax.Array, target: jax.Array) -> Any:
            operator = prox.l1(strength) if penalty else None
            args = target, ridge
            return minimize(self.loss, jnp.zeros(12), prox=operator, args=args, tol=1e-13).params

        solution = jax.jit(solve)

        def score(*at: jax.Array) -> jax.Array:
            return weights @ solution(*at)

        @jax.jit
        def derivatives(at: Any, along: Any) -> Any:
            return jax.grad(score, (0, 1, 2))(*at), jax.jvp(score, at, along)[1], jax.jacobian(solve)(*at)

        every = jnp.array(1.3), jnp.array(0.7), direction
        alone = (one, zero, 0.0 * direction), (zero, one, 0.0 * direction), (zero, zero, direction)
        for strength, ridge in ((4.5, 0.0), (4.5, 1.5)) if penalty else ((0.0, 1.5),):
            at = jnp.array(strength), jnp.array(ridge), target
            slopes, forward, jacobian = derivatives(at, every)
            for along in alone:
                ends = ([a + s * d for a, d in zip(at, along, strict=True)] for s in (h, -h))
                above, below = (score(*end) for end in ends)
                slope = sum(jnp.vdot(s, d) for s, d in zip(slopes, along, strict=True))
                np.testing.assert_allclose(slope, (above - below) / (2 * h), rtol=1e-6, atol=1e-12)
            total = sum(jnp.vdot(s, d) for s, d in zip(slopes, every, strict=True))
            np.testing.assert_allclose(forward, total, rtol=1e-8)
            np.testing.assert_allclose(weights @ jacobian, slopes[0], rtol=1e-8, atol=1e-15)
            zeros = np.asarray(solution(*at)) == 0
            assert 0 < zeros.sum() < 12 if penalty else not zeros.any()
            np.testing.assert_array_equal(np.asarray(jacobian)[zeros], 0.0)

    def test_value_and_vmap(self, x64: None):
        """The envelope theorem: dF/dλ = ‖x‖₁."""
        problem = lasso()

        def value(strength: jax.Array) -> jax.Array:
            return minimize(problem.smooth, jnp.zeros(60), prox=prox.l1(strength), tol=1e-12).value

        strengths = jnp.array([0.01, 0.03])
        slopes = jax.jit(jax.vmap(jax.grad(value)))(strengths)
        for slope, strength in zip(slopes, strengths, strict=True):
            x = minimize(problem.smooth, jnp.zeros(60), prox=prox.l1(strength), tol=1e-12).params
            np.testing.assert_allclose(slope, jnp.sum(jnp.abs(x)), rtol=1e-8)


BAD = {
    "fun": ({"fun": 3}, TypeError, "fun must be callable"),
    "vector": ({"fun": lambda x: x}, ValueError, r"fun must return a scalar; got .*\(2,\)|float32\[2\]"),
    "integer value": (
        {"fun": lambda x: jnp.zeros([], int)},
        TypeError,
        "real floating scalar; got dtype int32",
    ),
    "aux": ({"has_aux": True}, ValueError, r"has_aux, fun must return \(value, aux\)"),
    "integers": ({"init_params": {"a": jnp.arange(2)}}, TypeError, r"parameter \['a'\] has dtype int32"),
    "prox": ({"prox": 0.1}, TypeError, "prox must be an operator"),
    "prox shape": ({"prox": lambda p, s: p[:1]}, ValueError, "prox must keep shapes"),
    "prox dtype": ({"prox": lambda p, s: p.astype(jnp.bfloat16)}, TypeError, "prox must keep dtypes"),
    "tol": ({"tol": -1e-3}, ValueError, r"tol must be a number in \[0, 1\); got -0.001"),
    "tol one": ({"tol": 1.0}, ValueError, "tol must be"),
    "max_steps": ({"max_steps": 0}, ValueError, r"max_steps must be an integer in \[1, 2147483647\]; got 0"),
    "max_steps float": ({"max_steps": 10.0}, TypeError, "max_steps must be an integer"),
    "args": ({"args": jnp.ones(2)}, TypeError, r"args must be a tuple.*args=\(data,\)"),
    "learning_rate": ({"learning_rate": -1.0}, ValueError, "learning_rate must be"),
    "restart": ({"restart": "never"}, ValueError, "restart must be"),
    "optimizer": ({"optimizer": 3}, TypeError, "optimizer must be an Optax transformation"),
    "optimizer prox": (
        {"optimizer": optax.sgd(0.1), "prox": prox.l1(0.1)},
        ValueError,
        "both prox and learning_rate",
    ),
    "optimizer momentum": (
        {"optimizer": optax.sgd(0.1), "momentum": 0.5},
        ValueError,
        "momentum and restart are fista's",
    ),
    "optimizer restart": (
        {"optimizer": optax.sgd(0.1), "restart": "speed"},
        ValueError,
        "momentum and restart are fista's",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_anything_is_compiled(name: str):
    arguments, error, message = BAD[name]
    with pytest.raises(error, match=message), jax.log_compiles(False):
        minimize(**{"fun": sphere, "init_params": jnp.ones(2), **arguments})


class TestOptimistix:
    """The same optimizers behind another front."""

    def test_our_optimizers(self, standard_promotion: None):
        optimistix = pytest.importorskip("optimistix")
        for optimizer in (nag_optax.nag(0.1, 0.9, restart="gradient"), nag_optax.fista(0.1)):
            solver = optimistix.OptaxMinimiser(optimizer, rtol=1e-5, atol=1e-6)
            found = optimistix.minimise(
                lambda x, _: jnp.sum((x - 1.0) ** 2), solver, jnp.zeros(3), max_steps=1000
            )
            np.testing.assert_allclose(found.value, 1.0, atol=1e-4)


def test_a_slow_problem_is_not_given_up(x64: None):
    """After a restart within the rounding of f it is more than a hundred steps until M falls again."""
    problem = worst_function(150)
    solution = minimize(problem.smooth, jnp.zeros(150), tol=1e-8)
    assert Reason(int(solution.reason)) is Reason.CONVERGED
    assert relative_mapping(problem, np.asarray(solution.params)) < 1e-7


def test_data_of_the_objective_stay_one_buffer():
    """XLA would write a constant anew into every loop and branch that reads it."""
    matrix = jnp.asarray(np.random.default_rng(0).standard_normal((30, 20)), jnp.float32)

    def solve(start: jax.Array) -> Any:
        return minimize(lambda x: jnp.sum((matrix @ x - 1.0) ** 2), start, max_steps=50).params

    text = jax.jit(solve).lower(jnp.zeros(20)).compile().as_text()
    assert len(re.findall(r"= f32\[30,20\]\S* constant\(", text)) == 1


def test_equal_operators_share_one_program(counted_from_zero: None):
    """Two operators without a strength are different objects, and one tree."""

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum((x - 1.0) ** 2)

    for make in (prox.nonnegative, lambda: prox.l1(0.5)):
        before = programs()
        for _ in range(2):
            minimize(loss, jnp.zeros(3), prox=make())
        assert programs() == before + 1


def test_parameters_without_an_array_are_refused():
    with pytest.raises(ValueError, match="init_params must hold at least one array; got none"):
        nag_optax.minimize(lambda x: jnp.float32(1.0), {})


@pytest.mark.parametrize("kind", ["schedule", "rule"])
def test_momentum_is_fista_s(kind: str, x64: None):
    """A schedule follows the steps through restarts, where a rule begins again; a rule may see the step."""
    momentum = wavering(0.95) if kind == "rule" else lambda count: rising(float_count(count))
    curvature = jnp.geomspace(1e-3, 1.0, 8)

    def bowl(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum(curvature * (x - 1.0) ** 2)

    method: Any = {"prox": prox.nonnegative(), "learning_rate": 1.0}
    alone = minimize(bowl, jnp.zeros(8), momentum=momentum, **method)
    within = minimize(bowl, jnp.zeros(8), optimizer=nag_optax.fista(momentum=momentum, **method), **method)
    assert alone.steps == within.steps
    np.testing.assert_allclose(alone.params, within.params, rtol=1e-12)
    assert bool(alone.converged)
