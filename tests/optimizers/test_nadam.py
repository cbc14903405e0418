"""`nadam` and `nadamw`: each variant against its original, and what the originals get wrong."""

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

from nag_optax import nadam, nadamw
from tests import reference
from tests.helpers import (
    START,
    assert_trees_close,
    falling,
    float_count,
    quartic_gradient,
    rising,
    trajectory,
)
from tests.test_contracts import compiled_update

STEPS = 200
EXACT = 1e-12  # float64 rounding over 200 steps of a contraction, with a margin
VARIANTS = ("dozat", "keras", "optax", "algoperf")

with np.load(Path(__file__).parents[1] / "golden" / "torch_nadam.npz") as _file:
    GOLDEN = dict(_file)


def falling_rate(count: Any) -> jax.Array:
    return falling(float_count(count))


def residual(actual: np.ndarray, expected: np.ndarray) -> float:
    assert actual.dtype == expected.dtype == np.float64
    return float(np.max(np.abs(actual - expected)))


def points(optimizer: optax.GradientTransformation, gradient: Any, start: Any, steps: int) -> np.ndarray:
    return trajectory(optimizer, gradient, start, steps, iterate=False)[0]


class TestTorch:
    """Against the numbers of torch.optim.NAdam in golden/."""

    @staticmethod
    def run(index: int) -> tuple[dict[str, Any], Any, np.ndarray, np.ndarray]:
        b1, b2, eps, psi, decay, decoupled, rates, seed = GOLDEN["settings"][index].tolist()
        numbers: dict[str, Any] = {"b1": b1, "b2": b2, "eps": eps, "momentum_decay": psi}
        hessian, quartic = GOLDEN["hessians"][int(seed)], float(GOLDEN["quartic"])
        settings = {"numbers": numbers, "decay": decay, "decoupled": bool(decoupled)}
        return (
            settings,
            lambda p: hessian @ p + quartic * p**3,
            GOLDEN["starts"][int(seed)],
            GOLDEN["rates"][int(rates)],
        )

    @pytest.mark.parametrize("index", range(len(GOLDEN["settings"])))
    def test_trajectory(self, index: int, x64: None):
        settings, gradient, start, table = self.run(index)
        decay, numbers = settings["decay"], settings["numbers"]

        def rate(count: jax.Array) -> jax.Array:
            return jnp.asarray(table)[count]

        if settings["decoupled"]:
            optimizer = nadamw(rate, weight_decay=decay, variant="dozat", **numbers)
        else:
            optimizer = optax.chain(optax.add_decayed_weights(decay), nadam(rate, variant="dozat", **numbers))
        actual = points(optimizer, gradient, start, len(table))
        assert residual(actual, GOLDEN["points"][index]) < EXACT

    def test_both_decays_are_among_them(self):
        decays, modes = GOLDEN["settings"][:, 4], GOLDEN["settings"][:, 5]
        assert {bool(mode) for mode in modes[decays > 0]} == {False, True}

    @pytest.mark.parametrize("index", range(len(GOLDEN["settings"])))
    def test_our_transcription(self, index: int):
        settings, gradient, start, table = self.run(index)
        expected = reference.torch_nadam(
            gradient,
            start,
            lambda t: float(table[t]),
            **settings["numbers"],
            steps=len(table),
            weight_decay=settings["decay"],
            decoupled=settings["decoupled"],
        )
        assert residual(expected, GOLDEN["points"][index]) < EXACT


class TestTranscriptions:
    """Against the published formulas, in NumPy."""

    @pytest.mark.parametrize("psi", [4e-3, 0.0, 0.3])
    def test_dozat(self, psi: float, x64: None):
        actual = points(
            nadam(falling_rate, variant="dozat", momentum_decay=psi), quartic_gradient, START, STEPS
        )
        numbers = 0.9, 0.999, 1e-8, psi
        expected = reference.torch_nadam(quartic_gradient, START, falling, *numbers, STEPS)
        assert residual(actual, expected) < EXACT

    def test_keras(self, x64: None):
        actual = points(nadam(falling_rate, 0.8, 0.99, 1e-7, variant="keras"), quartic_gradient, START, STEPS)
        expected = reference.keras_nadam(quartic_gradient, START, falling, 0.8, 0.99, 1e-7, STEPS)
        assert residual(actual, expected) < EXACT
        dozat = points(
            nadam(falling_rate, 0.8, 0.99, 1e-7, variant="dozat", momentum_decay=1.0),
            quartic_gradient,
            START,
            50,
        )
        assert residual(actual[:50], dozat) < EXACT

    def test_algoperf(self, x64: None):
        optimizer = nadamw(falling_rate, 0.8, 0.99, 1e-6, 0.1, variant="algoperf")
        actual = points(optimizer, quartic_gradient, START, STEPS)
        numbers = 0.8, 0.99, 1e-6, 0.1
        expected = reference.algoperf_nadamw(quartic_gradient, START, falling, *numbers, STEPS)
        assert residual(actual, expected) < EXACT

    def test_schedules_of_everything(self, x64: None):
        """b1 with which the next gradient is looked up, and products in place of powers."""

        def b2(t: Any) -> Any:
            return 1.0 - 0.5 / (t + 1.0)

        def decay(t: Any) -> Any:
            return 0.3 / (1.0 + t)

        optimizer = nadamw(
            falling_rate,
            lambda count: 0.9 * rising(float_count(count) + 1),
            lambda count: b2(float_count(count) + 1),
            weight_decay=lambda count: decay(float_count(count) + 1),
            variant="optax",
        )
        actual = points(optimizer, quartic_gradient, START, STEPS)

        def expected(mu: Any) -> np.ndarray:
            return reference.dozat_nadam(
                quartic_gradient, START, falling, mu, b2, 1e-8, STEPS, weight_decay=decay
            )

        assert residual(actual, expected(lambda t: 0.9 * rising(t))) < EXACT
        # The test would see a schedule that is one step late.
        assert residual(actual, expected(lambda t: 0.9 * rising(t - 1))) > 1e-3

    def test_momentum_schedule_of_every_variant(self, x64: None):
        """A schedule that is constant is the number."""
        for variant in VARIANTS:
            number = points(nadam(0.1, 0.8, 0.9, variant=variant), quartic_gradient, START, 30)
            schedules = optax.constant_schedule(0.8), optax.constant_schedule(0.9)
            scheduled = points(nadam(0.1, *schedules, variant=variant), quartic_gradient, START, 30)
            assert residual(scheduled, number) < EXACT

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_without_momentum_it_is_rmsprop(self, variant: Any, x64: None):
        # At 0.1 a difference in the start becomes six times as large on the way: no contraction.
        actual = points(nadam(0.05, 0.0, variant=variant), quartic_gradient, START, 50)
        expected = reference.algoperf_nadamw(
            quartic_gradient, START, lambda t: 0.05, 0.0, 0.999, 1e-8, 0.0, 50
        )
        assert residual(actual, expected) < EXACT


class TestOptax:
    def test_nadam(self, x64: None, standard_promotion: None):
        schedule = optax.cosine_decay_schedule(0.1, STEPS)
        actual = points(nadam(schedule, 0.8, 0.99, variant="optax"), quartic_gradient, START, STEPS)
        theirs = points(optax.nadam(schedule, 0.8, 0.99), quartic_gradient, START, STEPS)
        assert residual(actual, theirs) < EXACT
        expected = reference.dozat_nadam(
            quartic_gradient,
            START,
            lambda t: 0.05 * (1 + np.cos(np.pi * t / STEPS)),
            lambda t: 0.8,
            lambda t: 0.99,
            1e-8,
            STEPS,
        )
        assert residual(actual, expected) < EXACT

    def test_nadamw(self, x64: None, standard_promotion: None):
        mask = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
        params = {"w": jnp.linspace(-1.0, 2.0, 6).reshape(2, 3), "b": jnp.ones(3)}

        def run(optimizer: optax.GradientTransformation) -> Any:
            return points(optimizer, lambda p: jax.tree.map(lambda x: x**3 - 0.2, p), params, 50)

        # Named, because their order differs.
        numbers = {"learning_rate": 0.1, "weight_decay": 0.3, "mask": mask}
        actual, theirs = run(nadamw(**numbers, variant="optax")), run(optax.nadamw(**numbers))
        assert_trees_close(actual, theirs, rtol=0, atol=EXACT)

    def test_float32(self, standard_promotion: None):
        """To Optax's own rounding: its 1 − b2ᵗ loses four digits at first."""
        start = jnp.asarray(START, jnp.float32)
        gradient = lambda p: p**3 + p  # noqa: E731
        actual = points(nadam(0.1, variant="optax"), gradient, start, 50)
        theirs = points(optax.nadam(0.1), gradient, start, 50)
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, theirs, rtol=0, atol=1e-4)

    def test_moves_no_more_bytes(self, standard_promotion: None):
        def bytes_accessed(optimizer: optax.GradientTransformation) -> float:
            return compiled_update(optimizer, 65_536).cost_analysis()["bytes accessed"]

        # One pass over the leaf is 262 144 bytes; scalars of the state are a few.
        theirs = bytes_accessed(optax.nadam(0.1))
        for variant in VARIANTS:
            assert bytes_accessed(nadam(0.1, variant=variant)) <= theirs + 256
        assert bytes_accessed(nadamw(0.1)) <= bytes_accessed(optax.nadamw(0.1)) + 256


class TestPublishedNumbers:
    @pytest.mark.parametrize(
        ("variant", "expected"), [("dozat", 1.056), ("keras", 1.063), ("optax", 1.474), ("algoperf", 1.9)]
    )
    def test_first_step(self, variant: Any, expected: float):
        params = jnp.array([3.0, -0.01])
        optimizer = nadam(1.0, variant=variant, eps=0.0)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-expected, expected], rtol=0, atol=5e-4)

    def test_momentum_rises_from_half_to_all_of_b1(self, x64: None):
        """μ_t of the state: ψ = 0 stays at b1/2; ψ = 1 comes within 0.1 % of b1 in 153 steps."""

        def mu(steps: int, **options: Any) -> float:
            optimizer = nadam(0.1, **options)
            params = jnp.ones(1)
            state = optimizer.init(params)
            update = jax.jit(optimizer.update)
            products = [1.0]
            for _ in range(steps):
                _, state = update(params, state, params)
                products.append(float(state[0].momentum_decay.product))
            return products[-1] / products[-2]

        np.testing.assert_allclose(mu(20, variant="dozat", momentum_decay=0.0), 0.45, rtol=1e-12)
        assert 0.998 < mu(152, variant="keras") / 0.9 < 0.999 <= mu(153, variant="keras") / 0.9


class TestNumbers:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_bias_correction_in_float32(self, variant: Any):
        """Of constant gradients v̂ is 1. With 1 − 0.999ᵗ by subtraction the error would be 1e-5."""
        ones, start, numbers = np.ones_like, np.zeros(1), (0.9, 0.999, 0.0)
        trajectories = {
            "dozat": reference.torch_nadam(ones, start, np.ones_like, *numbers, 4e-3, 300),
            "keras": reference.keras_nadam(ones, start, np.ones_like, *numbers, 300),
            "optax": reference.dozat_nadam(
                ones, start, np.ones_like, lambda t: 0.9, lambda t: 0.999, 0.0, 300
            ),
            "algoperf": reference.algoperf_nadamw(ones, start, np.ones_like, *numbers, 0.0, 300),
        }
        expected = np.diff(trajectories[variant][:, 0], prepend=0.0)
        optimizer = nadam(1.0, variant=variant, eps=0.0)

        def step(state: Any, _: None) -> Any:
            return optimizer.update(jnp.ones(1), state)[::-1]

        _, updates = jax.lax.scan(step, optimizer.init(jnp.ones(1)), length=300)
        np.testing.assert_allclose(updates[:20, 0], expected[:20], rtol=1.5e-6)
        # Sums of 300 rounded terms.
        np.testing.assert_allclose(updates[:, 0], expected, rtol=1e-5)

    def test_float32_parameters_in_double_precision(self, x64: None):
        """1 − b2 is rounded as the bias correction is: 1 − float32(0.999) would be off by 5e-5."""
        params = jnp.full(1, 3.0, jnp.float32)
        optimizer = nadam(1.0, variant="algoperf", eps=0.0)
        updates, _ = optimizer.update(params, optimizer.init(params))
        np.testing.assert_allclose(updates, -1.9, rtol=3e-7)

    def test_products_end_at_zero(self):
        """After 30 000 steps ∏μ and 0.99ᵗ are far below the smallest float32."""
        optimizer = nadam(0.1, b2=0.99)

        def step(state: Any, _: None) -> Any:
            return optimizer.update(jnp.ones(1), state)[::-1]

        _, updates = jax.lax.scan(step, optimizer.init(jnp.ones(1)), length=30_000)
        np.testing.assert_allclose(updates[-1], -0.1, rtol=1e-5)

    @pytest.mark.parametrize("eps", [1e-8, 0.0])
    def test_coordinate_without_gradient_stays(self, eps: float):
        params = jnp.array([1.0, 5.0])
        optimizer = nadam(0.1, eps=eps, variant="dozat")
        updates, _ = optimizer.update(jnp.array([1.0, 0.0]), optimizer.init(params), params)
        np.testing.assert_allclose(updates, [-0.1056, 0.0], rtol=0, atol=5e-5)

    def test_derivative_where_no_gradient_ever_was(self, x64: None):
        """√v at v = 0 has an infinite slope, which times 0 would be NaN."""
        start = jnp.array([1.0, -2.0, 3.0])

        def after_training(rate: jax.Array) -> jax.Array:
            optimizer = nadam(rate)

            def step(carry: Any, _: None) -> Any:
                params, state = carry
                # The last coordinate has a gradient that depends on the rate, and is 0.
                updates, state = optimizer.update(params * jnp.array([1.0, 1.0, 0.0]), state, params)
                return (optax.apply_updates(params, updates), state), None

            params = jax.lax.scan(step, (start, optimizer.init(start)), length=5)[0][0]
            return jnp.sum(params**2)

        slope = jax.jit(jax.grad(after_training))(0.05)
        h = 1e-6
        expected = (after_training(0.05 + h) - after_training(0.05 - h)) / (2 * h)
        np.testing.assert_allclose(slope, expected, rtol=1e-7)

    def test_bfloat16_second_moment_stalls(self):
        """As the docstring says: it neither reaches its value nor decays; in float32 it does both."""

        def second_moments(dtype: Any) -> np.ndarray:
            optimizer = nadam(0.1, accumulator_dtype=dtype)
            params = jnp.zeros(1, jnp.bfloat16)

            def step(state: Any, gradient: jax.Array) -> Any:
                _, state = optimizer.update(gradient[None], state, params)
                return state, state[0].second_moment[0]

            gradients = jnp.where(jnp.arange(20_000) < 10_000, 1.0, 1e-3).astype(jnp.bfloat16)
            moments = jax.lax.scan(step, optimizer.init(params), gradients)[1]
            return np.asarray(moments, np.float32)[[9_999, 19_999]]

        wide = second_moments(jnp.float32)
        np.testing.assert_allclose(wide[0], 1.0, rtol=1e-3)
        assert wide[1] < 1e-4
        narrow = second_moments(None)
        assert 0.2 < narrow[0] < 0.6
        assert narrow[1] == narrow[0]


class TestWeightDecay:
    def test_is_decoupled(self, x64: None):
        actual = points(nadamw(0.1, weight_decay=0.1), jnp.zeros_like, np.float64(1.0), 2)
        np.testing.assert_allclose(actual[-1], 0.9801, rtol=1e-12)

    def test_needs_the_parameters(self):
        optimizer = nadamw(0.1)
        with pytest.raises(ValueError, match="weight_decay needs the parameters"):
            optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)))

    def test_default_decays(self):
        params = jnp.ones(1)
        optimizer = nadamw(1.0)
        updates, _ = optimizer.update(jnp.zeros(1), optimizer.init(params), params)
        np.testing.assert_allclose(updates, -1e-4, rtol=1e-6)


@pytest.mark.parametrize("factory", [nadam, nadamw])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": -0.1}, ValueError, r"learning_rate must be .*; got -0.1"),
        ({"learning_rate": "0.1"}, TypeError, "learning_rate must be .*or an Optax schedule"),
        ({"b1": 1.0}, ValueError, r"b1 must be a number in \[0, 1\) or an Optax schedule; got 1.0"),
        ({"b2": -0.1}, ValueError, r"b2 must be .*; got -0.1"),
        ({"eps": -1e-8}, ValueError, r"eps must be a number in \[0, inf\); got -1e-08"),
        ({"eps": lambda count: 1e-8}, TypeError, "eps must be"),
        ({"momentum_decay": -1.0}, ValueError, "momentum_decay must be"),
        ({"variant": "torch"}, ValueError, "variant must be .*'torch'"),
        ({"variant": "optax", "momentum_decay": 1.0}, ValueError, 'momentum_decay is for variant="dozat"'),
        ({"accumulator_dtype": jnp.int32}, ValueError, "accumulator_dtype"),
    ],
)
def test_arguments_out_of_range(factory: Any, options: dict, error: Any, message: str):
    with pytest.raises(error, match=message):
        factory(**{"learning_rate": 0.1, **options})


def test_decay_out_of_range():
    with pytest.raises(ValueError, match="weight_decay must be"):
        nadamw(0.1, weight_decay=-1.0)


def test_tree_that_is_not_that_of_init():
    optimizer = nadam(0.1)
    state = optimizer.init({"a": jnp.ones(2)})
    with pytest.raises(ValueError, match="update .* has shape"):
        optimizer.update({"a": jnp.ones(3)}, state)
