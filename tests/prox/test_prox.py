"""The class `Prox` and what all operators share: trees, strengths, dtypes, derivatives, errors."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nag_optax import fista, minimize
from nag_optax.prox import (
    Prox,
    box,
    elastic_net,
    group_l2,
    l1,
    leafwise,
    nonnegative,
    nuclear_norm,
    projection,
    separable,
)
from tests.helpers import assert_trees_close, assert_trees_equal, dtypes, exhaustive

simplex = optax.projections.projection_simplex

# Each with one strength that a test may trace.
OF_STRENGTH: dict[str, Callable[[Any], Prox]] = {
    "l1": l1,
    "elastic_net-l1": lambda s: elastic_net(s, 0.3),
    "elastic_net-l2": lambda s: elastic_net(0.3, s),
    "group_l2": group_l2,
    "group_l2-axis": lambda s: group_l2(s, axis=0),
    "group_l2-joint": lambda s: group_l2(s, joint=True),
    "nuclear_norm": nuclear_norm,
    "box": lambda s: box(-0.2, s),
    "projection": lambda s: projection(simplex, scale=s),
    "separable": lambda s: separable({"a": l1(s), "b": group_l2(s)}),
}
over_strengths = pytest.mark.parametrize("make", OF_STRENGTH.values(), ids=OF_STRENGTH)


def tree(dtype: Any = None) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    dtype = dtype or jnp.result_type(float)
    return {"a": jnp.asarray(rng.standard_normal((3, 4)), dtype), "b": jnp.ones((2, 2), dtype)}


@over_strengths
def test_passes_through_jit_and_compiles_once(make: Callable[[Any], Prox]):
    traces = []

    @jax.jit
    def solve(prox: Prox, params: Any, step_size: jax.Array) -> Any:
        traces.append(None)
        return prox(params, step_size), prox.value(params)

    for strength in (0.2, 0.5):
        z, value = solve(make(strength), tree(), 0.5)
        assert_trees_close(z, make(strength)(tree(), 0.5), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(value, make(strength).value(tree()), rtol=1e-6)
    assert len(traces) == 1


@over_strengths
def test_vmap_over_strengths(make: Callable[[Any], Prox]):
    strengths = jnp.array([0.1, 0.5, 2.0])
    lanes = jax.jit(jax.vmap(lambda s: make(s)(tree(), 0.5)))(strengths)
    mapped = jax.jit(jax.vmap(lambda prox: prox(tree(), 0.5)))(jax.vmap(make)(strengths))
    assert_trees_close(mapped, lanes, rtol=1e-6, atol=1e-6)
    for k, strength in enumerate(strengths):
        lane = jax.tree.map(lambda a: a[k], lanes)  # noqa: B023
        assert_trees_close(lane, make(strength)(tree(), 0.5), rtol=1e-5, atol=1e-6)


@over_strengths
def test_scan(make: Callable[[Any], Prox]):
    prox = make(0.1)
    z = jax.lax.scan(lambda p, _: (prox(p, 0.5), None), tree(), length=2)[0]
    assert_trees_close(z, prox(prox(tree(), 0.5), 0.5), rtol=1e-5, atol=1e-6)


def differences(function: Callable, x: Any) -> np.ndarray:
    h = 1e-6
    return np.asarray((function(x + h) - function(x - h)) / (2 * h))


@over_strengths
def test_derivatives_are_finite_differences(make: Callable[[Any], Prox], x64: None):
    """With respect to strength, step size and parameters; of the result and of the value."""
    p, direction = tree(), {"a": jnp.cos(tree()["a"]), "b": jnp.array([[0.3, -1.0], [2.0, 0.5]])}
    p["b"] = jnp.array([[1.0, 0.4], [-0.7, 0.9]])

    @jax.jit
    def summary(strength: jax.Array, step: jax.Array, length: jax.Array) -> jax.Array:
        z = make(strength)(jax.tree.map(lambda a, b: a + length * b, p, direction), step)
        return sum((jnp.sum(jnp.sin(a)) for a in jax.tree.leaves(z)), start=jnp.zeros([]))

    at = jnp.array(0.4), jnp.array(0.8), jnp.array(0.05)
    every = 0, 1, 2
    backward, forward = jax.jit(jax.grad(summary, every))(*at), jax.jit(jax.jacfwd(summary, every))(*at)
    for k in every:
        expected = differences(lambda x: summary(*at[:k], x, *at[k + 1 :]), at[k])  # noqa: B023
        np.testing.assert_allclose(backward[k], expected, rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(forward[k], expected, rtol=1e-7, atol=1e-8)

    value = jax.jit(jax.value_and_grad(lambda s: make(s).value(p)))
    if np.isfinite(value(at[0])[0]):
        expected = differences(lambda s: value(s)[0], at[0])
        np.testing.assert_allclose(value(at[0])[1], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3, 3)])
@pytest.mark.parametrize("imaginary", [0.0, 1.0])
@pytest.mark.parametrize("sigma", [(3.0, 1.5, 0.5), (2.0, 2.0, 2.0), (2.0, 0.0, 0.0), (0.7, 0.7, 0.0)])
def test_derivative_of_singular_value_thresholds(
    shape: tuple[int, int], imaginary: float, sigma: tuple[float, ...], x64: None
):
    """Also at equal and zero singular values, where the derivative of the SVD is infinite."""
    rng = np.random.default_rng(0)

    def gaussian(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape) + 1j * imaginary * rng.standard_normal(shape)

    u, v = (np.linalg.qr(gaussian(n, n))[0][:, :3] for n in shape)
    matrix, direction = (u * np.array(sigma)) @ v.conj().T, gaussian(*shape)
    if not imaginary:
        matrix, direction = matrix.real, direction.real
    along = lambda h: nuclear_norm(1.0)(jnp.asarray(matrix) + h.astype(matrix.dtype) * direction, 1.0)  # noqa: E731
    _, slope = jax.jvp(along, (jnp.zeros([]),), (jnp.ones([]),))
    np.testing.assert_allclose(slope, differences(along, jnp.zeros([])), atol=1e-8)


@over_strengths
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_derivatives_are_finite_at_kinks(make: Callable[[Any], Prox], strength: float):
    def loss(strength: jax.Array, params: Any) -> jax.Array:
        prox = make(strength)
        z, value = prox(params, 1.0), prox.value(params)
        return sum(jnp.sum(a**2 + a) for a in jax.tree.leaves(z)) + jnp.where(jnp.isfinite(value), value, 0.0)

    slopes = jax.jit(jax.grad(loss, (0, 1)))
    # Zeros, zeros in part, and coordinates and norms that equal the threshold.
    for p in (jnp.zeros((3, 3)), jnp.diag(jnp.array([0.0, 1.0, 0.0])), jnp.eye(3)):
        params = {"a": p, "b": p}
        for slope in jax.tree.leaves(slopes(jnp.asarray(strength), params)):
            assert np.all(np.isfinite(slope))


@pytest.mark.parametrize("make", [l1, lambda s: elastic_net(s, 0.0), group_l2, nuclear_norm])
@pytest.mark.parametrize("dtype", [float, complex])
def test_without_a_strength_the_derivative_at_zero_is_the_identity(make: Callable[[Any], Prox], dtype: Any):
    """As for an intercept that is not penalised; else the derivative of a solution of 0 is wrong."""
    zero, direction = jnp.zeros((2, 2), dtype), jnp.arange(1.0, 5.0).reshape(2, 2).astype(dtype)
    z, slope = jax.jvp(lambda p: make(0.0)(p, 1.0), (zero,), (direction,))
    np.testing.assert_array_equal(z, zero)
    np.testing.assert_allclose(slope, direction, rtol=1e-6)


def test_complex_derivative_at_zero():
    loss = lambda z: jnp.sum(jnp.abs(l1(0.5)(z, 1.0)) ** 2) + l1(0.5).value(z)  # noqa: E731
    assert bool(jnp.all(jnp.isfinite(jax.grad(loss)(jnp.array([0.0 + 0.0j, 1.0 + 1.0j])))))


def test_strength_is_a_scalar_a_prefix_or_a_tree():
    params = {"a": {"x": jnp.array([2.0, -2.0]), "y": jnp.array(2.0)}, "b": (jnp.array([2.0]),)}
    expected = {"a": {"x": jnp.array([1.0, -1.0]), "y": jnp.array(1.0)}, "b": (jnp.array([2.0]),)}
    for strength in (
        {"a": 1.0, "b": 0.0},
        {"a": {"x": np.array([1.0, 1.0]), "y": 1}, "b": (jnp.zeros(1),)},
        {"a": jnp.array(1.0), "b": (0.0,)},
    ):
        assert_trees_equal(l1(strength)(params, 1.0), expected)
        assert float(l1(strength).value(params)) == 6.0
    assert_trees_equal(l1(1.0)({"b": params["a"]["x"]}, 1.0)["b"], expected["a"]["x"])
    # One number a column broadcasts, and rank promotion stays forbidden elsewhere.
    z = l1(np.array([0.0, 1.0, 2.0]))(jnp.full((2, 3), 2.0), 1.0)
    np.testing.assert_array_equal(z, [[2.0, 1.0, 0.0]] * 2)


@over_strengths
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtypes(make: Callable[[Any], Prox], dtype: Any):
    """In the parameter's dtype, and computed in float32."""
    params = tree(dtype)
    z = make(0.3)(params, 0.5)
    assert dtypes(z) == dtypes(params)
    wide = make(0.3)(jax.tree.map(lambda a: a.astype(jnp.float32), params), 0.5)
    if "box" not in repr(make(0.3)):  # whose bounds are rounded first
        assert_trees_equal(z, jax.tree.map(lambda a: a.astype(dtype), wide))
    assert make(0.3).value(params).dtype == jnp.float32


@over_strengths
def test_double_precision_stays_with_the_leaf(make: Callable[[Any], Prox], x64: None):
    params = {"a": tree(jnp.float32)["a"], "b": tree(jnp.float64)["b"]}
    for strength in (0.3, np.float64(0.3), jnp.array(0.3)):
        # Abstract: neither jit nor the numbers have a say in the dtypes.
        z = jax.eval_shape(make(strength), params, jnp.array(0.5))
        assert dtypes(z) == dtypes(params)
        single = jax.eval_shape(lambda p: make(strength)(p, 0.5), tree(jnp.float32))  # noqa: B023
        assert dtypes(single) == dtypes(tree(jnp.float32))
        assert jax.eval_shape(make(strength).value, params).dtype == jnp.float64


@pytest.mark.parametrize(
    "prox",
    [
        l1(0.5),
        elastic_net({"a": 0.5, "b": 0.1, "c": 0.5}, 1.0),
        group_l2(0.5, joint=True),
        nonnegative(),
        box(-1.0, 0.5),
        nuclear_norm(0.5),
        projection(simplex),
        separable({"a": l1(0.5)}),
    ],
    ids=lambda operator: repr(operator).split(" at 0x")[0],  # xdist wants the same in every process
)
def test_none_masked_and_empty(prox: Prox):
    matrix = tree()["a"]
    params = {"a": matrix, "b": None, "c": optax.MaskedNode()}
    z = prox(params, 1.0)
    assert jax.tree.structure(z) == jax.tree.structure(params)
    if "elastic" not in repr(prox):
        assert_trees_equal(z["a"], prox({"a": matrix}, 1.0)["a"])
        empty = {"a": jnp.zeros((0, 3))}
        assert_trees_equal(prox(empty, 1.0), empty)
        assert float(prox.value(empty)) == 0.0
    nothing = {"a": None, "b": None, "c": None}
    assert prox(nothing, 1.0) == nothing
    assert float(prox.value(nothing)) == 0.0


@pytest.mark.four_devices
def test_sharded_parameters_stay_where_they_are():
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("data",)), PartitionSpec("data"))
    p = jnp.linspace(-1.0, 1.0, 16).reshape(8, 2)
    for prox in (l1(0.3), group_l2(0.3), group_l2(0.3, axis=1), box(-0.5, 0.5), elastic_net(0.3, 1.0)):
        z = jax.block_until_ready(jax.jit(prox)(jax.device_put(p, sharding), 1.0))
        assert z.sharding.is_equivalent_to(sharding, 2)
        np.testing.assert_allclose(z, prox(p, 1.0), rtol=1e-6)


# Parts of a tree.


def layers() -> dict[str, Any]:
    dense = {"kernel": jnp.array([[2.0, -0.5]]), "bias": jnp.array([-2.0, 0.5])}
    return {"layers": [dense, dense], "scale": jnp.array(-3.0)}


def test_paths_and_masks_name_the_same_parts():
    is_matrix: Callable = lambda params: jax.tree.map(lambda p: p.ndim == 2, params)  # noqa: E731
    rest = {"layers": [{"kernel": False, "bias": True}] * 2, "scale": False}
    proxes = [
        separable({"layers/0/kernel": l1(1.0), "layers/1/kernel": l1(1.0), "layers/0/bias": nonnegative(),
                   "layers/1/bias": nonnegative()}),
        separable({is_matrix: l1(1.0), "layers/0/bias": nonnegative(), "layers/1/bias": nonnegative()}),
        separable([(is_matrix(layers()), l1(1.0)), (rest, nonnegative())]),
        separable({"layers": separable({"0/kernel": l1(1.0), "0/bias": nonnegative(), "1": separable(
            {"kernel": l1(1.0), "bias": nonnegative()})})}),
    ]  # fmt: skip
    dense = {"kernel": jnp.array([[1.0, 0.0]]), "bias": jnp.array([0.0, 0.5])}
    expected = {"layers": [dense, dense], "scale": jnp.array(-3.0)}
    for prox in proxes:
        assert_trees_equal(prox(layers(), 1.0), expected)
        assert_trees_equal(jax.jit(lambda prox: prox(layers(), 1.0))(prox), expected)
        assert float(prox.value(layers())) == np.inf
        assert float(prox.value(expected)) == 2.0


def test_a_path_gives_its_subtree_alone():
    """So that a strength or a projection is written for that part, and the whole may be one."""
    strengths = {"kernel": 1.0, "bias": np.array([0.0, 0.5])}
    z = separable({"layers/1": l1(strengths)})(layers(), 1.0)
    np.testing.assert_array_equal(z["layers"][1]["bias"], [-2.0, 0.0])
    assert_trees_equal(z["layers"][0], layers()["layers"][0])
    assert_trees_equal(separable({"": l1(1.0)})(layers(), 1.0), l1(1.0)(layers(), 1.0))
    z = separable({"a": l1(1.0)})({"a": jnp.array(3.0), "ab": jnp.array(3.0)}, 1.0)
    assert (float(z["a"]), float(z["ab"])) == (2.0, 3.0)
    z = separable({"layers/0/bias": projection(simplex)})(layers(), 1.0)
    np.testing.assert_allclose(jnp.sum(z["layers"][0]["bias"]), 1.0)


def test_a_part_may_be_any_function():
    prox = separable({"scale": lambda params, step_size: params * step_size})
    assert float(prox(layers(), 0.5)["scale"]) == -1.5
    with pytest.raises(AttributeError, match="has no value"):
        prox.value(layers())


# One's own.


@leafwise(penalty=lambda z, most, weight: weight.ravel()[0] * jnp.sum(jnp.square(z)) + jnp.sum(0 * most))
def damped(p: jax.Array, step_size: jax.Array, most: jax.Array, weight: jax.Array = 0.5) -> jax.Array:
    return jnp.minimum(p, most) / (1 + 2 * step_size * weight)


@leafwise
def _capped(p: jax.Array, step_size: jax.Array) -> jax.Array:
    return jnp.minimum(p, step_size)


def test_a_prox_of_one_s_own():
    params = {"a": jnp.array([3.0, -2.0], jnp.bfloat16), "b": jnp.array(1.0), "c": None}
    prox = damped({"a": jnp.array([1.0, 5.0]), "b": 9.0, "c": 0.0})
    z = prox(params, 0.5)
    assert_trees_equal(z, {"a": jnp.array([2 / 3, -4 / 3], jnp.bfloat16), "b": jnp.array(2 / 3), "c": None})
    assert float(prox.value(params)) == 0.5 * (9 + 4 + 1)
    assert repr(damped(1.0, weight=0.0)) == "damped(1.0, 0.0)"
    # Of other strengths it is the same program, and they may be traced.
    assert jax.tree.structure(damped(1.0)) == jax.tree.structure(damped(2.0))
    slope = jax.grad(lambda weight: damped(9.0, weight)(jnp.array(1.0), 1.0))(1.0)
    np.testing.assert_allclose(slope, -2 / 9, rtol=1e-6)
    with pytest.raises(ValueError, match=r"most of shape \(1, 2\) does not fit parameter \['a'\]"):
        damped(jnp.ones((1, 2)))({"a": jnp.ones(2)}, 1.0)
    with pytest.raises(TypeError, match=r"call it, with its arguments, as damped\(\.\.\.\)"):
        fista(0.1, damped)


def test_a_prox_whose_penalty_is_not_known_has_no_value():
    prox = separable({"a": l1(1.0), "b": _capped()})
    for unknown in (_capped(), prox):
        assert not hasattr(unknown, "value")
        with pytest.raises(ValueError, match='restart="value" needs the penalty'):
            fista(0.1, unknown, restart="value")
    solution = minimize(
        lambda p: 0.5 * (jnp.square(p["a"] - 3) + jnp.square(p["b"] - 3)),
        {"a": jnp.zeros([]), "b": jnp.zeros([])},
        prox=prox,
        learning_rate=0.5,
    )
    assert bool(solution.converged)
    np.testing.assert_allclose([solution.params["a"], solution.params["b"]], [2.0, 0.5], atol=1e-5)
    # f alone.
    np.testing.assert_allclose(solution.value, 0.5 * (1 + 2.5**2), rtol=1e-5)


# Errors.


def params() -> dict[str, jax.Array]:
    return {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: l1(-1.0), ValueError, r"strength must be a real number in \[0, inf\).*got -1.0"),
        (lambda: l1({"a": 1.0, "b": -2}), ValueError, r"strength\['b'\] must be .*\[0, inf\).*got -2"),
        (lambda: l1(np.array([1.0, -1.0])), ValueError, r"strength must .*got \[ 1. -1.\]"),
        (lambda: l1(float("nan")), ValueError, "strength must be .*got nan"),
        (lambda: l1(float("inf")), ValueError, "strength must be .*got inf"),
        (lambda: l1("1"), TypeError, "strength must be .*got '1' of type str"),
        (lambda: l1(jnp.array(1j)), TypeError, "strength must be .*got dtype complex64"),
        (lambda: elastic_net(-1.0, 0.0), ValueError, "l1_strength must be"),
        (lambda: elastic_net(0.0, -1.0), ValueError, "l2_strength must be"),
        (lambda: group_l2(-1.0), ValueError, "strength must be"),
        (lambda: group_l2(1.0, "rows"), TypeError, "axis must be None, an int.*got 'rows'"),
        (
            lambda: group_l2({"a": 1.0}, joint=True),
            ValueError,
            "strength must be .*joint=True; got {'a': 1.0}",
        ),
        (lambda: nuclear_norm(-1.0), ValueError, "strength must be"),
        (lambda: box(1.0, 0.0), ValueError, "lower must be at most upper; got lower 1.0 and upper 0.0"),
        (lambda: box({"a": 0.0, "b": 2.0}, 1.0), ValueError, "lower must be at most upper; got lower 2.0"),
        (lambda: box(0, {"a": 1.0, "b": np.array([1.0, -1.0])}), ValueError, "lower must be at most upper"),
        (lambda: box(float("nan"), 0.0), ValueError, r"lower must be a real number in \[-inf, inf\]"),
        (lambda: box(None, "1"), TypeError, "upper must be a real number"),
        (lambda: projection(simplex, scale=-1.0), ValueError, r"scale must be .*\[0, inf\).*got -1.0"),
        (lambda: projection(simplex, size=1.0), TypeError, "projection_simplex cannot be called with .*size"),
        (lambda: projection(simplex, scale="1"), TypeError, "must be numbers and arrays; got '1'"),
        (lambda: projection(1.0), TypeError, r"fn must be a callable fn\(tree, ...\) -> tree; got 1.0"),
        (lambda: separable(None), TypeError, "parts must be a mapping from part to prox.*got None"),
        (lambda: separable([l1(1.0)]), TypeError, "parts must be a mapping from part to prox, or pairs"),
        (lambda: separable({"a": 1.0}), TypeError, "^a prox of separable must be .*got 1.0 of type float"),
        (lambda: separable({"a": l1}), TypeError, r"^a prox of separable must .* nag_optax.prox.l1\("),
        (lambda: separable({"a": simplex}), TypeError, "^a prox of separable must .*projection_simplex"),
        (lambda: separable({"a": l1(1), "a/b": l1(1)}), ValueError, "must not overlap; got 'a' and 'a/b'"),
        (lambda: separable([({"a": 1.0}, l1(1.0))]), TypeError, "a path, a tree of bools.*got 1.0"),
    ],
)
def test_bad_arguments(make: Callable, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("prox", "given", "error", "message"),
    [
        (l1({"a": 1.0}), params(), ValueError, "strength must be .* a prefix of the parameters; got "),
        (l1(np.ones(2)), params(), ValueError, r"strength of shape \(2,\) .* parameter \['a'\]: .*\(2, 3\)"),
        (
            l1(1.0),
            {"a": jnp.ones(2, int)},
            TypeError,
            r"l1 needs .*complex dtype; parameter \['a'\] has dtype int",
        ),
        (nonnegative(), jnp.ones(2, complex), TypeError, "nonnegative needs .*at the root has dtype complex"),
        (box(0.0, 1.0), jnp.ones(2, complex), TypeError, "box needs parameters of a floating dtype"),
        (projection(simplex), jnp.ones(2, complex), TypeError, "projection_simplex is for real parameters"),
        (
            projection(lambda p: p[:1]),
            jnp.ones(2),
            ValueError,
            r"keep shapes: at the root had \(2,\), got \(1,\)",
        ),
        (
            projection(lambda p: p.astype(jnp.bfloat16)),
            jnp.ones(2),
            TypeError,
            "must keep dtypes: .*got bfloat16",
        ),
        (projection(lambda p: [p]), jnp.ones(2), ValueError, "must keep the tree"),
        (
            group_l2(1.0, axis=1),
            params(),
            ValueError,
            r"axis 1 does not fit parameter \['b'\] of shape \(3,\)",
        ),
        (group_l2(1.0, axis=(0, -2)), jnp.ones((2, 3)), ValueError, "must be different numbers in"),
        (
            group_l2(1.0, axis=-1, joint=True),
            params(),
            ValueError,
            r"norms of one shape .*\(2,\) of \['a'\], \(\)",
        ),
        (group_l2(np.ones(2), axis=0), jnp.ones((2, 3)), ValueError, r"strength of shape \(2,\) .*\(3,\)"),
        (
            nuclear_norm(1.0),
            params(),
            ValueError,
            r"two dimensions or more; parameter \['b'\] has shape \(3,\)",
        ),
        (separable({"A": l1(1.0)}), params(), ValueError, "subtree 'A'; the parameters are 'a', 'b'"),
        (separable([({"c": True}, l1(1.0))]), params(), ValueError, "a mask of separable must be .*a prefix"),
        (separable([(lambda p: 1.0, l1(1.0))]), params(), TypeError, "a tree of bools.*got 1.0"),
        (
            separable([("a", l1(1.0)), ({"a": True, "b": False}, l1(1.0))]),
            params(),
            ValueError,
            "overlap; got 'a' and .*both hold parameter 'a'",
        ),
        (
            separable({"a": lambda p, s: [p]}),
            params(),
            ValueError,
            "the prox of part 'a' must return the tree",
        ),
    ],
)
def test_bad_parameters(prox: Prox, given: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda p: prox(p, 1.0), given)


def test_bad_step_size():
    with pytest.raises(ValueError, match=r"step_size must be a number in \[0, inf\); got -1"):
        l1(1.0)(params(), -1.0)
    with pytest.raises(ValueError, match="step_size must be .* got an array of shape"):
        l1(1.0)(params(), jnp.ones(2))


def test_repr_names_the_function_and_its_strengths():
    assert repr(elastic_net(0.5, 1.0)) == "elastic_net(0.5, 1.0)"
    assert repr(group_l2(0.5, axis=0)) == "group_l2(0.5, axis=0, joint=False)"


@pytest.mark.parametrize("name", [exhaustive("simplex"), "l1_ball"])  # the ball projects onto a simplex
def test_optax_projections_keep_float32_where_x64_is_enabled(name: str, x64: None):
    """Optax's own derivative rules widen there; `minimize` needs none of them, and its derivative one."""
    operator = projection(getattr(optax.projections, f"projection_{name}"), scale=2.0)
    target = jnp.array([2.0, 1.0, 0.25], jnp.float32)

    def solution(target: jax.Array) -> Any:
        return minimize(lambda x: jnp.sum((x - target) ** 2), jnp.ones_like(target), prox=operator).params

    for result in (operator(target, 1.0), solution(target)):
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, [1.5, 0.5, 0.0], atol=1e-5)
    # On the face of the two that are positive their mean stays.
    slope = jax.jacrev(solution)(target)
    np.testing.assert_allclose(slope, [[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]], atol=1e-5)
