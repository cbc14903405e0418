"""`orthogonalize` against the singular value decomposition, and against its published range."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax import Matrix, orthogonalize
from tests import reference
from tests.helpers import assert_trees_equal

JORDAN = np.array([3.4445, -4.7750, 2.0315])
CONVERGENT = (1.875, -1.25, 0.375)  # The Taylor polynomial of σ(σ²)^(−½) at 1.
EXACT = 1e-11  # float64, five steps that magnify rounding up to 3.44⁵ times
LAST_TWO = Matrix(-2, -1)
ROUNDING = 4 * 3.44**5 * 2.0**-24  # The same in float32
SHAPES = [(5, 3), (3, 5), (4, 4), (1, 6), (6, 1), (1, 1)]


def random(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def apply(transformation: optax.GradientTransformation, updates: Any) -> Any:
    return jax.jit(lambda u: transformation.update(u, transformation.init(u))[0])(updates)


def complex_matrix(seed: int = 0) -> np.ndarray:
    return random((5, 3), seed) + 1j * random((5, 3), seed + 1)


class TestExactness:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_maps_the_singular_values(self, shape: tuple[int, int], steps: int, x64: None):
        matrix = random(shape)
        expected = reference.newton_schulz(matrix, steps, np.tile(JORDAN, (steps, 1)))
        actual = apply(orthogonalize(steps), jnp.asarray(matrix))
        assert actual.dtype == np.float64
        np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)

    def test_complex(self, x64: None):
        matrix = complex_matrix()
        expected = reference.newton_schulz(matrix, 5, np.tile(JORDAN, (5, 1)))
        np.testing.assert_allclose(apply(orthogonalize(), jnp.asarray(matrix)), expected, rtol=0, atol=EXACT)

    @pytest.mark.parametrize("traced", [False, True])
    def test_a_triple_for_each_step(self, traced: bool, x64: None):
        """And the last for those that remain."""
        table = np.array([[3.4445, -4.7750, 2.0315], [2.5, -2.0, 0.6], [1.875, -1.25, 0.375]])
        matrix = random((4, 6))
        expected = reference.newton_schulz(matrix, 5, table[[0, 1, 2, 2, 2]])

        @jax.jit
        def run(table: Any, steps: Any) -> jax.Array:
            return apply(orthogonalize(steps, coefficients=table), jnp.asarray(matrix))

        if traced:
            actual = run(jnp.asarray(table), 5)
        else:
            actual = apply(orthogonalize(5, coefficients=table.tolist()), jnp.asarray(matrix))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)

    def test_traced_numbers_in_a_triple(self, x64: None):
        matrix = random((4, 6))
        actual = jax.jit(lambda a: apply(orthogonalize(coefficients=(a, *JORDAN[1:])), matrix))(JORDAN[0])
        expected = reference.newton_schulz(matrix, 5, np.tile(JORDAN, (5, 1)))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)

    def test_polar_factor_with_coefficients_that_converge(self, x64: None):
        for coefficients in (CONVERGENT, (1.5, -0.5, 0.0)):
            matrix = random((6, 4), seed=2)
            left, _, right = np.linalg.svd(matrix, full_matrices=False)
            actual = apply(orthogonalize(25, coefficients=coefficients), jnp.asarray(matrix))
            np.testing.assert_allclose(actual, left @ right, rtol=0, atol=1e-13)


class TestRange:
    """Five steps take singular values to about [0.7, 1.2] (Jordan et al., 2024)."""

    def test_published_range(self, x64: None):
        rng = np.random.default_rng(3)
        basis = [np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (40, 30)]
        # After division by ‖σ‖ the smallest is 0.002.
        sigma = np.geomspace(1.0, 0.01, 30)
        sigma[-1] = 0.002 * np.sqrt(np.sum(sigma[:-1] ** 2) / (1 - 0.002**2))
        matrix = basis[0][:, :30] * sigma @ basis[1].T
        values = np.linalg.svd(apply(orthogonalize(), jnp.asarray(matrix)), compute_uv=False)
        assert 0.68 <= values.min() and values.max() <= 1.21
        # The default coefficients do not converge: that is the price of their slope at zero.
        assert values.min() < 0.8 and values.max() > 1.1
        # Four steps do not reach the smallest.
        few = np.linalg.svd(apply(orthogonalize(4), jnp.asarray(matrix)), compute_uv=False)
        assert few.min() < 0.6

    def test_whole_interval(self):
        """The docstring's claim for every σ, on a grid: p⁵([0.002, 1]) lies in [0.68, 1.21]."""
        sigma = np.linspace(0.002, 1.0, 1_000_001)
        for _ in range(5):
            sigma = JORDAN[0] * sigma + JORDAN[1] * sigma**3 + JORDAN[2] * sigma**5
        assert 0.68 <= sigma.min() and sigma.max() <= 1.21


class TestScale:
    @pytest.mark.parametrize("scale", [1e-4, 1e4])
    def test_does_not_matter(self, scale: float, x64: None):
        matrix = random((4, 6))
        expected = apply(orthogonalize(), jnp.asarray(matrix))
        actual = apply(orthogonalize(), jnp.asarray(scale * matrix))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=EXACT)

    @pytest.mark.parametrize(
        ("dtype", "turn"),
        [(None, 1.0), (jnp.float16, 1.0), (jnp.bfloat16, 1.0), (None, 1j)],
        ids=["f32", "f16", "bf16", "complex"],
    )
    def test_does_not_matter_to_a_narrow_dtype(self, dtype: Any, turn: complex):
        """Where float16 holds no entry, or float32 no square of one."""
        matrix = jnp.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.5 * turn]])
        transformation = orthogonalize(dtype=dtype, eps=1e-38)
        run = jax.jit(lambda updates: transformation.update(updates, optax.EmptyState())[0])
        expected = run(matrix)
        values = np.linalg.svd(np.asarray(expected), compute_uv=False)
        assert 0.68 < values.min() and values.max() < 1.21
        # Rounding of X₀ once more, then in each of five steps.
        rounding = ROUNDING if dtype is None else 5 * float(jnp.finfo(dtype).eps)
        for scale in (1e5, 1e20, 3e38, 1e-6, 1e-30, 1e-37):
            np.testing.assert_allclose(run(scale * matrix), expected, rtol=0, atol=rounding)

    def test_float64_beyond_float32(self, x64: None):
        matrix = jnp.asarray(random((4, 6)))
        expected = apply(orthogonalize(dtype=jnp.float32), matrix)
        actual = apply(orthogonalize(dtype=jnp.float32), 1e200 * matrix)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING)

    def test_below_eps_it_does(self, x64: None):
        matrix = random((4, 6)) * 1e-9
        expected = reference.newton_schulz(matrix, 5, np.tile(JORDAN, (5, 1)), eps=1e-5)
        actual = apply(orthogonalize(eps=1e-5), jnp.asarray(matrix))
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        assert np.max(np.abs(actual)) < 0.2

    @pytest.mark.parametrize("eps", [1e-7, 1e-30, 1e-45])
    def test_zero_stays_zero(self, eps: float):
        """Where eps² is 0 in float32, too; and its derivative is finite."""
        zeros = jnp.zeros((3, 2))
        np.testing.assert_array_equal(apply(orthogonalize(eps=eps), zeros), 0.0)
        slope = jax.jit(jax.grad(lambda x: jnp.sum(apply(orthogonalize(), x))))(zeros)
        assert np.all(np.isfinite(slope))

    def test_nan_is_not_hidden(self):
        matrix = jnp.ones((3, 2)).at[1, 1].set(jnp.nan)
        assert not np.any(np.isfinite(apply(orthogonalize(), matrix)))


class TestMatrices:
    def test_an_array_is_one_matrix(self):
        kernel = jnp.asarray(random((2, 3, 4, 5)), jnp.float32)
        expected = apply(orthogonalize(), kernel.reshape(24, 5)).reshape(kernel.shape)
        np.testing.assert_allclose(apply(orthogonalize(), kernel), expected, rtol=0, atol=ROUNDING)

    def test_a_stack(self):
        stack = jnp.asarray(random((2, 3, 4, 5)), jnp.float32)
        actual = apply(orthogonalize(matrices=LAST_TWO), stack)
        for index in np.ndindex(2, 3):
            np.testing.assert_allclose(
                actual[index], apply(orthogonalize(), stack[index]), rtol=0, atol=ROUNDING
            )
        assert not np.allclose(actual, apply(orthogonalize(), stack), atol=0.1)

    def test_vmap(self):
        stack = jnp.asarray(random((3, 4, 5)), jnp.float32)
        mapped = jax.vmap(lambda x: apply(orthogonalize(), x))(stack)
        np.testing.assert_allclose(mapped, apply(orthogonalize(matrices=LAST_TWO), stack), 0, ROUNDING)


class TestDtype:
    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bf16", "f16"])
    def test_narrow_updates_are_computed_wide(self, dtype: Any):
        matrix = jnp.asarray(random((4, 6)), dtype)
        actual = apply(orthogonalize(), matrix)
        assert actual.dtype == dtype
        expected = apply(orthogonalize(), matrix.astype(jnp.float32)).astype(dtype)
        # Rounded once: the two differ in the last place at most.
        np.testing.assert_allclose(
            np.asarray(actual, np.float32), np.asarray(expected, np.float32), float(jnp.finfo(dtype).eps)
        )

    def test_small_numbers_of_float16(self):
        """Their squares are 0 in float16."""
        matrix = jnp.asarray(random((4, 6)) * 1e-4, jnp.float16)
        values = np.linalg.svd(np.asarray(apply(orthogonalize(), matrix), np.float64), compute_uv=False)
        assert 0.68 < values.min() and values.max() < 1.21

    def test_bfloat16_on_request(self):
        matrix = jnp.asarray(random((4, 6)), jnp.float32)
        narrow = apply(orthogonalize(dtype=jnp.bfloat16), matrix)
        assert narrow.dtype == jnp.float32
        assert_trees_equal(narrow, narrow.astype(jnp.bfloat16).astype(jnp.float32))
        difference = float(jnp.max(jnp.abs(narrow - apply(orthogonalize(), matrix))))
        # Each of five steps rounds numbers near 1 to eight bits.
        assert 0 < difference < 5 * 2.0**-7

    def test_float32_of_float64_and_of_complex(self, x64: None):
        for matrix in (random((4, 6)), complex_matrix()):
            actual = apply(orthogonalize(dtype=jnp.float32), jnp.asarray(matrix))
            exact = reference.newton_schulz(matrix, 5, np.tile(JORDAN, (5, 1)))
            assert actual.dtype == exact.dtype
            assert 1e-9 < np.max(np.abs(actual - exact)) < 1e-4


class TestPure:
    def test_no_state_and_none_updates(self):
        params = {"a": jnp.eye(2), "b": jnp.eye(3)}
        transformation = orthogonalize()
        state = transformation.init(params)
        assert not jax.tree.leaves(state)
        updates, _ = transformation.update({"a": None, "b": jnp.eye(3)}, state, params, value=1.0)
        assert updates["a"] is None
        np.testing.assert_allclose(updates["b"], apply(transformation, jnp.eye(3)), rtol=0, atol=ROUNDING)

    def test_the_smaller_gram_matrix(self):
        """8·8·64 products a Gram matrix, not 64·64·8."""
        for shape in ((64, 8), (8, 64)):
            text = str(jax.make_jaxpr(lambda x: apply(orthogonalize(), x))(jnp.ones(shape)))
            assert "f32[8,8]" in text and "f32[64,64]" not in text

    def test_derivative(self, x64: None):
        start, direction = jnp.asarray(random((3, 2))), jnp.asarray(random((3, 2), seed=5))

        @jax.jit
        def loss(x: jax.Array) -> jax.Array:
            return jnp.sum(apply(orthogonalize(), x) * direction)

        h = 1e-6
        slope = (loss(start + h * direction) - loss(start - h * direction)) / (2 * h)
        np.testing.assert_allclose(jnp.sum(jax.jit(jax.grad(loss))(start) * direction), slope, rtol=1e-6)

    def test_steps_may_be_traced(self):
        matrix = jnp.asarray(random((3, 4)), jnp.float32)
        run = jax.jit(lambda steps: apply(orthogonalize(steps), matrix))
        for steps in (1, 5):
            np.testing.assert_allclose(run(steps), apply(orthogonalize(steps), matrix), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, r"steps must be an integer in \[1, 2147483648\); got 0"),
        ({"steps": 2**31}, ValueError, "steps must be an integer .*got 2147483648"),
        ({"steps": 2.0}, TypeError, "steps must be an integer"),
        ({"eps": 0.0}, ValueError, r"eps must be a number in \(0, inf\); got 0.0"),
        ({"coefficients": (1.0, 2.0)}, ValueError, r"coefficients must be a triple .* got \(1.0, 2.0\)"),
        ({"coefficients": ((1.0, 2.0, 3.0), (1.0,))}, ValueError, "coefficients must be a triple"),
        ({"coefficients": ()}, ValueError, "coefficients must be a triple"),
        ({"coefficients": "abc"}, TypeError, "coefficients must be a triple .* got 'abc' of type str"),
        ({"coefficients": 3.4}, TypeError, "coefficients must be a triple .* got 3.4 of type float"),
        ({"coefficients": (1.0, np.nan, 2.0)}, ValueError, "coefficients.*got nan"),
        ({"coefficients": "polar"}, TypeError, "coefficients.*got 'polar'"),
        ({"dtype": jnp.int32}, ValueError, "dtype must be a floating or complex dtype, or None; got int32"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_refuses(arguments: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=f"^{message}"):
        orthogonalize(**arguments)


@pytest.mark.parametrize("call", ["init", "update"])
def test_refuses_a_vector(call: str):
    transformation, tree = orthogonalize(), {"bias": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"two axes or more; \['bias'\] has shape \(3,\)"):
        transformation.init(tree) if call == "init" else transformation.update(tree, optax.EmptyState())
