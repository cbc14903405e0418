"""`nag` against Nesterov's two sequences, against Optax and PyTorch, and against its proven bound."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax import nag
from tests import reference
from tests.helpers import (
    START,
    arrays_like,
    assert_trees_close,
    assert_trees_equal,
    falling,
    float_count,
    quartic_gradient,
    rising,
    sphere,
    train,
    trajectory,
)

STEPS = 300
EXACT = 1e-12  # float64 rounding over 300 steps of a contraction, with a margin


def falling_rate(count: Any) -> jax.Array:
    return falling(float_count(count))


def rising_momentum(count: Any) -> jax.Array:
    return rising(float_count(count))


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


with np.load(Path(__file__).parents[1] / "golden" / "torch_sgd.npz") as _file:
    GOLDEN = dict(_file)


class TestExactness:
    def test_both_schedules_at_once(self, x64: None):
        ps, xs = trajectory(nag(falling_rate, rising_momentum), quartic_gradient, START, STEPS)
        ys, expected = reference.nesterov(quartic_gradient, START, falling, rising, STEPS)
        assert residual(ps, ys) < EXACT
        assert residual(xs, expected) < EXACT
        # The test would see a schedule that is one step late.
        late, _ = reference.nesterov(quartic_gradient, START, falling, lambda t: rising(t - 1), STEPS)
        assert residual(ps, late) > 1e-3

    def test_sutskever_rule_and_learning_rate_schedule(self, x64: None):
        rule = nag_optax.momentum.sutskever(0.7)
        ps, xs = trajectory(nag(falling_rate, rule), quartic_gradient, START, STEPS)

        def momentum(t: int) -> float:
            return reference.sutskever_momentum(t, 0.7)

        assert {momentum(t) for t in range(1, STEPS + 1)} == {0.5, 0.7}
        lookaheads, thetas = reference.sutskever_velocity(quartic_gradient, START, falling, momentum, STEPS)
        assert residual(ps, lookaheads) < EXACT
        assert residual(xs, thetas) < EXACT

    def test_decay_under_both_schedules(self, x64: None):
        optimizer = nag(falling_rate, rising_momentum, weight_decay=0.3)
        ps, xs = trajectory(optimizer, quartic_gradient, START, STEPS)
        ys, expected = reference.nesterov(quartic_gradient, START, falling, rising, STEPS, 0.3)
        assert residual(ps, ys) < EXACT
        assert residual(xs, expected) < EXACT

    def test_gradient_units_under_a_learning_rate_schedule(self, x64: None):
        optimizer = nag(falling_rate, 0.9, accumulate="gradients")
        ps, _ = trajectory(optimizer, quartic_gradient, START, STEPS, iterate=False)
        expected = reference.torch_nesterov(quartic_gradient, START, falling, 0.9, STEPS)
        assert residual(ps, expected) < EXACT

    def test_the_two_forms_agree_at_a_constant_learning_rate(self, x64: None):
        updates, xs = trajectory(nag(0.1, rising_momentum), quartic_gradient, START, STEPS)
        gradients, gradient_xs = trajectory(
            nag(0.1, rising_momentum, accumulate="gradients"),
            quartic_gradient,
            START,
            STEPS,
            learning_rate=0.1,
        )
        assert residual(updates, gradients) < EXACT
        assert residual(xs, gradient_xs) < EXACT

    def test_the_references_agree(self):
        def momentum(t: int) -> float:
            return reference.sutskever_momentum(t, 0.9)

        pair = reference.nesterov(quartic_gradient, START, falling, momentum, STEPS)
        velocity = reference.sutskever_velocity(quartic_gradient, START, falling, momentum, STEPS)
        assert residual(pair[0], velocity[0]) < EXACT
        assert residual(pair[1], velocity[1]) < EXACT


class TestOptax:
    """Against optax.sgd(nesterov=True)."""

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_constant_learning_rate_to_float32_rounding(self, accumulate: Any):
        ours, _ = trajectory(
            nag(0.1, 0.9, accumulate=accumulate), quartic_gradient32, START32, 50, learning_rate=0.1
        )
        theirs, _ = trajectory(
            optax.sgd(0.1, 0.9, nesterov=True), quartic_gradient32, START32, 50, iterate=False
        )
        assert ours.dtype == np.float32
        # A few units in the last place of numbers of order one.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=8 * np.finfo(np.float32).eps)

    @pytest.mark.parametrize(
        "schedule",
        [
            optax.exponential_decay(0.1, 10, 0.5),
            optax.linear_schedule(0.1, 0.001, 80),
            optax.cosine_decay_schedule(0.1, 100),
            optax.piecewise_constant_schedule(0.1, {30: 0.1, 60: 5.0}),
            optax.warmup_cosine_decay_schedule(0.0, 0.1, 20, 100),
        ],
        ids=["exponential", "linear", "cosine", "piecewise", "warmup-cosine"],
    )
    def test_gradient_units_under_any_schedule(
        self, schedule: optax.Schedule, x64: None, standard_promotion: None
    ):
        ours, _ = trajectory(
            nag(schedule, 0.9, accumulate="gradients"), quartic_gradient, START, 100, iterate=False
        )
        theirs, _ = trajectory(
            optax.sgd(schedule, 0.9, nesterov=True), quartic_gradient, START, 100, iterate=False
        )
        assert residual(ours, theirs) < EXACT
        # The default form is another method as soon as the rate changes.
        exact, _ = trajectory(nag(schedule, 0.9), quartic_gradient, START, 100, iterate=False)
        assert residual(exact, theirs) > 1e-3

    def test_trace_after_the_learning_rate_is_nag(self, x64: None, standard_promotion: None):
        """The order that keeps each step's own rate, so that this much is Optax's too."""
        rate = optax.cosine_decay_schedule(0.1, 100)
        theirs = optax.chain(optax.scale_by_learning_rate(rate), optax.trace(0.9, nesterov=True))
        ours, _ = trajectory(nag(rate, 0.9), quartic_gradient, START, 100, iterate=False)
        points, _ = trajectory(theirs, quartic_gradient, START, 100, iterate=False)
        assert residual(ours, points) < EXACT

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    @pytest.mark.parametrize(
        "rate", [0.1, optax.exponential_decay(0.1, 10, 0.5)], ids=["constant", "schedule"]
    )
    @pytest.mark.parametrize("zero", [0, 0.0, np.float32(0)], ids=["int", "float", "numpy"])
    def test_momentum_zero_is_plain_descent(self, rate: Any, zero: Any, accumulate: Any):
        optimizer = nag(rate, zero, accumulate=accumulate)
        params = {"a": START32, "b": jnp.ones((2, 3))}
        assert not arrays_like(optimizer.init(params), params)
        ours, _ = train(optimizer, params, sphere, 20)
        theirs, _ = train(optax.sgd(rate), params, sphere, 20)
        assert_trees_equal(ours, theirs)


START32 = jnp.asarray(START, jnp.float32)


def quartic_gradient32(p: jax.Array) -> jax.Array:
    return jnp.asarray(quartic_gradient(np.eye(8)) - 0.1 * np.eye(8), jnp.float32) @ p + 0.1 * p**3


class TestTorch:
    """Against the numbers of torch.optim.SGD(nesterov=True) in golden/."""

    @pytest.mark.parametrize("rates", ["constant", "scheduled"])
    @pytest.mark.parametrize("l2", [False, True], ids=["plain", "l2"])
    def test_trajectory(self, rates: str, l2: bool, x64: None):
        table = GOLDEN[f"rates_{rates}"]
        momentum = float(GOLDEN["momentum"])
        hessian, quartic = GOLDEN["hessian"], float(GOLDEN["quartic"])
        if rates == "constant":
            optimizer = nag(float(table[0]), momentum)
        else:
            optimizer = nag(lambda count: jnp.asarray(table)[count], momentum, accumulate="gradients")
        if l2:
            optimizer = optax.chain(optax.add_decayed_weights(float(GOLDEN["decay"])), optimizer)
        ps, _ = trajectory(
            optimizer, lambda p: hessian @ p + quartic * p**3, GOLDEN["start"], len(table), iterate=False
        )
        assert residual(ps, GOLDEN[rates + ("_l2" if l2 else "")]) < EXACT

    def test_our_transcription_of_torch(self):
        hessian, quartic = GOLDEN["hessian"], float(GOLDEN["quartic"])
        rates = GOLDEN["rates_scheduled"]
        ps = reference.torch_nesterov(
            lambda p: hessian @ p + quartic * p**3,
            GOLDEN["start"],
            lambda t: float(rates[t]),
            float(GOLDEN["momentum"]),
            len(rates),
        )
        assert residual(ps, GOLDEN["scheduled"]) < EXACT


def test_keras(x64: None):
    """Its learning rate is inside the velocity: the default form, while the rate changes too."""
    expected = reference.keras_sgd(quartic_gradient, START, falling, 0.9, STEPS)
    ps, _ = trajectory(nag(falling_rate, 0.9), quartic_gradient, START, STEPS)
    assert residual(ps, expected) < EXACT
    other, _ = trajectory(
        nag(falling_rate, 0.9, accumulate="gradients"), quartic_gradient, START, STEPS, iterate=False
    )
    assert residual(other, expected) > 1e-3


def two_steps(optimizer: optax.GradientTransformation, gradient: float, start: float) -> float:
    ps, _ = trajectory(optimizer, lambda p: jnp.full_like(p, gradient), np.float64(start), 2, iterate=False)
    return float(ps[-1])


class TestPublishedNumbers:
    """Two steps by hand: g = 1, m = 0.9, and the learning rate falls from 0.1 to 0.01."""

    @staticmethod
    def rate(count: jax.Array) -> jax.Array:
        return jnp.where(count == 0, 0.1, 0.01)

    def test_learning_rate_outside_the_velocity(self, x64: None):
        np.testing.assert_allclose(
            two_steps(nag(self.rate, 0.9, accumulate="gradients"), 1.0, 0.0), -0.2171, rtol=1e-12
        )

    def test_learning_rate_inside_the_velocity(self, x64: None):
        np.testing.assert_allclose(two_steps(nag(self.rate, 0.9), 1.0, 0.0), -0.29, rtol=1e-12)

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_constant_learning_rate(self, accumulate: Any, x64: None):
        np.testing.assert_allclose(
            two_steps(nag(0.1, 0.9, accumulate=accumulate), 1.0, 0.0), -0.461, rtol=1e-12
        )

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    @pytest.mark.parametrize("momentum", [0.0, 0.9])
    def test_decay_is_decoupled(self, accumulate: Any, momentum: float, x64: None):
        optimizer = nag(0.1, momentum, weight_decay=0.1, accumulate=accumulate)
        np.testing.assert_allclose(two_steps(optimizer, 0.0, 1.0), 0.9801, rtol=1e-12)

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_l2_is_coupled(self, accumulate: Any, x64: None):
        optimizer = optax.chain(optax.add_decayed_weights(0.1), nag(0.1, 0.9, accumulate=accumulate))
        np.testing.assert_allclose(two_steps(optimizer, 0.0, 1.0), 0.954261, rtol=1e-12)


class TestWeightDecay:
    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_scheduled_rate_scales_it(self, accumulate: Any, x64: None):
        optimizer = nag(TestPublishedNumbers.rate, 0.9, weight_decay=0.5, accumulate=accumulate)
        np.testing.assert_allclose(
            two_steps(optimizer, 0.0, 1.0), (1 - 0.1 * 0.5) * (1 - 0.01 * 0.5), rtol=1e-12
        )

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_schedule_of_its_own(self, accumulate: Any, x64: None):
        """Read at the step that it decays, as the learning rate is."""

        def decay(count: jax.Array) -> jax.Array:
            return jnp.where(count == 0, 0.5, 0.25)

        optimizer = nag(TestPublishedNumbers.rate, 0.9, weight_decay=decay, accumulate=accumulate)
        np.testing.assert_allclose(
            two_steps(optimizer, 0.0, 1.0), (1 - 0.1 * 0.5) * (1 - 0.01 * 0.25), rtol=1e-12
        )

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    def test_agrees_with_adamw_s_order(self, accumulate: Any, x64: None):
        """As optax.adamw: add_decayed_weights between the direction and the learning rate."""
        ours, _ = trajectory(
            nag(0.1, 0.9, weight_decay=0.2, accumulate=accumulate),
            quartic_gradient,
            START,
            50,
            iterate=False,
        )
        parts = optax.trace(0.9, nesterov=True), optax.add_decayed_weights(0.2), optax.scale(-0.1)
        theirs, _ = trajectory(optax.chain(*parts), quartic_gradient, START, 50, iterate=False)
        assert residual(ours, theirs) < EXACT

    @pytest.mark.parametrize("accumulate", ["updates", "gradients"])
    @pytest.mark.parametrize(
        "mask",
        [
            {"layer": {"kernel": True, "bias": False}, "head": True},
            {"layer": {"kernel": True, "bias": False}, "head": {"kernel": True}},
            lambda params: jax.tree.map(lambda p: jnp.ndim(p) == 2, params),
        ],
        ids=["prefix", "tree", "function"],
    )
    def test_mask(self, mask: Any, accumulate: Any):
        params = {
            "layer": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)},
            "head": {"kernel": jnp.ones((1, 2))},
        }
        optimizer = nag(0.1, 0.9, weight_decay=0.1, mask=mask, accumulate=accumulate)
        updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
        expected = {
            "layer": {"kernel": jnp.full((2, 2), -0.01), "bias": jnp.zeros(2)},
            "head": {"kernel": jnp.full((1, 2), -0.01)},
        }
        assert_trees_close(updates, expected, rtol=1e-6)

    def test_mask_function_sees_the_parameters(self):
        """Not the updates, whose leaves may be None."""
        params = {"a": jnp.ones((2, 2)), "b": jnp.ones((2, 2))}
        optimizer = nag(0.1, 0.9, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda _: True, p))
        updates, _ = optimizer.update({"a": None, "b": jnp.zeros((2, 2))}, optimizer.init(params), params)
        assert updates["a"] is None
        np.testing.assert_allclose(updates["b"], -0.01, rtol=1e-6)

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            ({"a": True}, r"it has none for parameter \['b'\]\['w'\]"),
            ({"a": True, "b": {"w": True}, "c": True}, r"there is no parameter \['c'\]"),
            ([True, False], r"it has none for parameter \['a'\]"),
            ({"a": {"w": True}, "b": True}, r"it has none for parameter \['a'\]"),
        ],
        ids=["missing", "more", "list", "subtree-for-leaf"],
    )
    def test_mask_of_another_tree(self, mask: Any, message: str):
        params = {"a": jnp.ones(2), "b": {"w": jnp.ones(3)}}
        optimizer = nag(0.1, weight_decay=0.1, mask=mask)
        with pytest.raises(ValueError, match=f"^mask must be .* that the parameters extend; {message}$"):
            optimizer.update(params, optimizer.init(params), params)

    def test_mask_and_updates_of_another_tree(self):
        """The mask is right there, and not to blame."""
        params = {"a": {"v": jnp.ones(2), "w": jnp.ones(3)}}
        optimizer = nag(0.1, 0.0, weight_decay=0.1, mask={"a": {"v": True, "w": False}})
        with pytest.raises(ValueError, match="; the updates have a different tree$"):
            optimizer.update({"a": {"v": jnp.ones(2)}}, optimizer.init(params), params)

    def test_zero_adds_no_state(self):
        params = jnp.ones(3)
        assert_trees_equal(nag(0.1, 0.9, weight_decay=0).init(params), nag(0.1, 0.9).init(params))

    def test_needs_the_parameters(self):
        optimizer = nag(0.1, weight_decay=0.1)
        params = jnp.ones(3)
        with pytest.raises(ValueError, match="weight_decay needs the parameters"):
            optimizer.update(params, optimizer.init(params))

    def test_is_rounded_once(self):
        """−0.1·0.7·3 in bfloat16 is −0.2100; of a factor rounded to bfloat16 it would be −0.2090."""
        params = jnp.full(2, 3.0, jnp.bfloat16)
        optimizer = nag(0.1, 0.9, weight_decay=0.7)
        updates, _ = optimizer.update(jnp.zeros(2, jnp.bfloat16), optimizer.init(params), params)
        np.testing.assert_array_equal(updates, jnp.full(2, -0.21, jnp.bfloat16))


def quadratic_hessians() -> dict[str, np.ndarray]:
    """Nesterov's worst function, plus μ/2‖x‖²; the plainest ill-conditioned one; and a dense one."""
    n = 60
    worst = 0.25 * (2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)) + 0.01 * np.eye(n)
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((20, 20)))[0]
    dense = basis @ np.diag(np.geomspace(0.02, 7.0, 20)) @ basis.T
    return {"worst": worst, "two": np.diag([1.0, 100.0]), "dense": (dense + dense.T) / 2}


class TestBound:
    """f(x_n) − f* ≤ (1 − √q)ⁿ (f₀ − f* + μR²/2) for s = 1/L, m = (1 − √q)/(1 + √q): Nesterov,
    *Lectures on convex optimization*, 2018, section 2.2."""

    @staticmethod
    def check(objective: Any, gradient: Any, start: np.ndarray, convexity: float, smoothness: float):
        q = convexity / smoothness
        momentum = float((1 - np.sqrt(q)) / (1 + np.sqrt(q)))
        _, xs = trajectory(nag(1.0 / smoothness, momentum), gradient, start, 200)
        values = np.array([float(objective(x)) for x in xs])
        scale = float(objective(start)) + convexity * float(start @ start) / 2
        bounds = scale * (1 - np.sqrt(q)) ** np.arange(1, 201)
        assert np.all(values <= bounds)
        # The bound says more than that nothing diverged.
        assert values[-1] < 1e-3 * values[0]

    @pytest.mark.parametrize("name", ["worst", "two", "dense"])
    def test_quadratic(self, name: str, x64: None):
        hessian = quadratic_hessians()[name]
        eigenvalues = np.linalg.eigvalsh(hessian)
        start = np.random.default_rng(4).standard_normal(len(hessian))
        self.check(
            lambda x: 0.5 * x @ (hessian @ x),
            lambda x: hessian @ x,
            start,
            float(eigenvalues[0]),
            float(eigenvalues[-1]),
        )

    def test_log_cosh(self, x64: None):
        """Σ log cosh(aᵢᵀx) + μ/2‖x‖²: not quadratic, minimum 0 at 0, L = λmax(AᵀA) + μ."""
        a = np.random.default_rng(5).standard_normal((30, 12))
        smoothness = float(np.linalg.eigvalsh(a.T @ a)[-1]) + 0.1
        self.check(
            lambda x: np.sum(np.log(np.cosh(a @ x))) + 0.05 * x @ x,
            lambda x: a.T @ jnp.tanh(a @ x) + 0.1 * x,
            np.random.default_rng(6).standard_normal(12),
            0.1,
            smoothness,
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"learning_rate": float("nan")}, ValueError, r"learning_rate must be .*\[0, inf\).*got nan"),
            ({"learning_rate": float("inf")}, ValueError, r"learning_rate must be .*\[0, inf\).*got inf"),
            ({"learning_rate": -0.1}, ValueError, r"learning_rate must be .*schedule; got -0.1"),
            ({"learning_rate": np.float32(-0.5)}, ValueError, r"learning_rate must be .*got -0.5"),
            ({"learning_rate": "0.1"}, TypeError, r"learning_rate must be .*got '0.1' of type str"),
            ({"learning_rate": None}, TypeError, r"learning_rate must be .*got None"),
            ({"learning_rate": True}, TypeError, r"learning_rate must be .*got True of type bool"),
            ({"learning_rate": np.ones(3)}, ValueError, r"learning_rate must be .*array of shape \(3,\)"),
            ({"weight_decay": -1e-4}, ValueError, r"weight_decay must be .*schedule; got -0.0001"),
            ({"weight_decay": float("nan")}, ValueError, r"weight_decay must be .*got nan"),
            ({"weight_decay": "1"}, TypeError, r"weight_decay must be .*got '1' of type str"),
            ({"accumulate": "velocity"}, ValueError, r'accumulate must be "updates" or.*got \'velocity\''),
            ({"accumulate": None}, ValueError, r"accumulate must be .*got None"),
            ({"momentum": 1.0}, ValueError, r"momentum must be a number in \[0, 1\).*got 1.0"),
            ({"restart": "velocity"}, ValueError, r"restart must be 'gradient', 'speed', 'value' or None"),
            ({"accumulator_dtype": int}, ValueError, r"accumulator_dtype must be a floating.*got int"),
        ],
        ids=lambda value: repr(value) if isinstance(value, dict) else "",
    )
    def test_bad_argument(self, arguments: dict[str, Any], error: type[Exception], message: str):
        with pytest.raises(error, match=message):
            nag(**{"learning_rate": 0.1, **arguments})

    def test_rate_of_zero_is_allowed(self):
        params = jnp.ones(2)
        optimizer = nag(0.0)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_array_equal(updates, 0.0)

    @pytest.mark.parametrize(
        "make", [np.float32, np.float64, np.array, jnp.array], ids=["f32", "f64", "numpy", "jax"]
    )
    def test_number_of_another_library_keeps_the_dtype(self, make: Any):
        params = jnp.ones(3, jnp.bfloat16)
        optimizer = nag(make(0.5), make(0.5), weight_decay=make(0.5))
        updates, state = optimizer.update(params, optimizer.init(params), params)
        assert updates.dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(updates, np.float32), -0.5 - 0.25 - 0.25)
