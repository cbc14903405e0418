"""Each operator against its definition, a transcription of its closed form, and theorems on it."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nag_optax.prox import (
    Prox,
    box,
    elastic_net,
    group_l2,
    l1,
    nonnegative,
    nuclear_norm,
    projection,
    separable,
)
from tests import reference
from tests.helpers import assert_trees_close, assert_trees_equal

PENALTIES: dict[str, Callable[[], Prox]] = {
    "l1": lambda: l1(0.7),
    "l1-coordinates": lambda: l1({"m": np.linspace(0.0, 1.0, 4), "v": 0.3}),
    "elastic_net": lambda: elastic_net(0.5, {"m": 2.0, "v": np.array([0.0, 0.4, 1.0])}),
    "group_l2": lambda: group_l2(1.5),
    "group_l2-axis": lambda: group_l2({"m": np.linspace(0.5, 2.0, 4), "v": 0.3}, {"m": 0, "v": ()}),
    "group_l2-tree": lambda: group_l2(1.5, joint=True),
    "nuclear_norm": lambda: separable({"m": nuclear_norm(1.2)}),
    "separable": lambda: separable({"m": l1(0.7), "v": elastic_net(0.1, 1.0)}),
}
# The convex ones of both versions of Optax that are tested; some are younger than the older of these.
SETS: dict[str, dict[str, Any]] = {
    "non_negative": {},
    "box": {"lower": -0.5, "upper": {"m": 0.7, "v": np.array([0.1, 0.2, 3.0])}},
    "hypercube": {"scale": 0.6},
    "simplex": {"scale": 2.0},
    "l1_ball": {"scale": 1.5},
    "l2_ball": {"scale": 1.5},
    "linf_ball": {"scale": 0.5},
    "vector": {"a": {"m": np.ones((3, 4)), "v": np.arange(3.0)}},
    "hyperplane": {"a": {"m": np.ones((3, 4)), "v": np.arange(3.0)}, "b": 0.4},
    "halfspace": {"a": {"m": np.ones((3, 4)), "v": np.arange(3.0)}, "b": -40.0},
}
SPHERES = {"l1_sphere": {"scale": 1.5}, "l2_sphere": {"scale": 1.5}}


def optax_projection(name: str, arguments: dict[str, Any]) -> Prox:
    return projection(getattr(optax.projections, f"projection_{name}"), **arguments)


def available(sets: dict[str, dict[str, Any]]) -> dict[str, Callable[[], Prox]]:
    return {
        name: lambda name=name: optax_projection(name, sets[name])
        for name in sets
        if hasattr(optax.projections, f"projection_{name}")
    }


INDICATORS = {
    "nonnegative": nonnegative,
    "box": lambda: box(-np.inf, {"m": 0.3, "v": np.array([0.0, 1.0, np.inf])}),
    **{f"projection_{name}": make for name, make in available(SETS).items()},
}
CONVEX = {**PENALTIES, **INDICATORS}
ALL = {**CONVEX, **{f"projection_{name}": make for name, make in available(SPHERES).items()}}


def over(names: Iterable[str]) -> Any:
    return pytest.mark.parametrize("name", sorted(names))


def point(seed: int, scale: float = 1.0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {
        "m": jnp.asarray(scale * rng.standard_normal((3, 4))),
        "v": jnp.asarray(scale * rng.standard_normal(3)),
    }


def stacked(trees: Iterable[Any]) -> Any:
    """NumPy arrays, from which a lane is taken without a program."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def moved(tree: Any, direction: Any, length: Any) -> Any:
    return jax.tree.map(lambda a, b: a + length * b, tree, direction)


def inner(one: Any, other: Any) -> float:
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return sum(float(np.vdot(a, b).real) for a, b in pairs)


def distance(one: Any, other: Any) -> float:
    difference = moved(one, other, -1.0)
    return inner(difference, difference) ** 0.5


def test_every_projection_of_optax_is_here():
    names = {name for name in dir(optax.projections) if name.startswith("projection_")}
    assert names == {name for name in ALL if name.startswith("projection_")}
    assert {f"projection_{name}" for name in {**SETS, **SPHERES}} >= names


@over(ALL)
def test_nothing_near_is_better(name: str, x64: None):
    """z = prox(p) minimises step·g(z) + ½‖z − p‖²; of an indicator, among points projected again."""
    prox = ALL[name]()
    directions = stacked(point(seed + 1) for seed in range(8))

    @jax.jit
    def best_and_least_near(p: Any, step: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
        def objective(z: Any) -> jax.Array:
            squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), z, p)
            return step * prox.value(z) + 0.5 * (squares["m"] + squares["v"])

        def near(direction: Any, length: jax.Array) -> jax.Array:
            other = moved(z, direction, length)
            return objective(other if name in PENALTIES else prox(other, step))

        z = prox(p, step)
        along = jax.vmap(jax.vmap(near, (None, 0)), (0, None))
        return objective(z), jnp.min(along(directions, lengths))

    for scale, step in itertools.product([0.1, 1.0, 10.0], [0.05, 1.0, 4.0]):
        lengths = scale * jnp.array([1e-4, 1e-2, 1.0])
        best, least = map(float, best_and_least_near(point(0, scale), jnp.array(step), lengths))
        assert np.isfinite(best)
        assert least >= best - 1e-12 * (1.0 + best), (scale, step)


@over(CONVEX)
def test_firmly_nonexpansive(name: str, x64: None):
    """‖Px − Py‖² ≤ ⟨Px − Py, x − y⟩, which the proxes of convex functions fulfil and no others."""
    prox, rng = ALL[name](), np.random.default_rng(0)
    scales, steps = 10.0 ** rng.uniform(-2.0, 2.0, 100), 10.0 ** rng.uniform(-2.0, 1.0, 100)
    x, y = (stacked(point(first + k, scale) for k, scale in enumerate(scales)) for first in (0, 100))
    solve = jax.jit(jax.vmap(prox))
    between = jax.device_get(moved(solve(x, steps), solve(y, steps), -1.0))
    apart = moved(x, y, -1.0)
    for k, scale in enumerate(scales):
        one, other = (jax.tree.map(lambda a: a[k], tree) for tree in (between, apart))  # noqa: B023
        assert inner(one, one) <= inner(one, other) + 1e-12 * (1.0 + scale**2), (scale, steps[k])


@over(ALL.keys() - PENALTIES.keys())
def test_projections_are_idempotent(name: str, x64: None):
    p = point(3)
    prox, value = jax.jit(ALL[name]()), jax.jit(ALL[name]().value)
    z = prox(p, 1.0)
    assert_trees_close(prox(z, 1.0), z, rtol=1e-13, atol=1e-14)
    # The step size has no say, and the value tells inside from outside.
    assert_trees_equal(prox(p, 7.0), z)
    assert float(value(z)) == 0.0
    assert float(value(p)) == np.inf
    assert distance(z, p) > 0.1


@over(ALL.keys() - PENALTIES.keys())
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_rounded_projection_is_inside(name: str, dtype: Any):
    p = jax.tree.map(lambda a: a.astype(dtype), point(4, 3.0))
    # Two programs, between which the projection is rounded to its dtype.
    assert float(jax.jit(ALL[name]().value)(jax.jit(ALL[name]())(p, 1.0))) == 0.0


def test_soft_threshold(x64: None):
    p, rates = point(0)["m"], np.linspace(0.0, 2.0, 12).reshape(3, 4)
    np.testing.assert_allclose(l1(rates)(p, 0.5), reference.soft_threshold(p, 0.5 * rates), atol=1e-15)
    np.testing.assert_allclose(l1(rates).value(p), np.sum(rates * np.abs(p)), rtol=1e-15)
    z = jax.lax.complex(p, point(1)["m"])
    np.testing.assert_allclose(l1(rates)(z, 0.5), reference.soft_threshold(z, 0.5 * rates), atol=1e-15)
    np.testing.assert_allclose(l1(rates).value(z), np.sum(rates * np.abs(z)), rtol=1e-15)


def test_elastic_net(x64: None):
    p, first, second = point(0)["m"], 0.3, np.linspace(0.0, 2.0, 4)
    prox = elastic_net(first, second)
    np.testing.assert_allclose(
        prox(p, 0.5), reference.elastic_net_prox(p, first, second, 0.5), rtol=1e-14, atol=1e-15
    )
    value = np.sum(first * np.abs(p)) + 0.5 * np.sum(second * np.square(p))
    np.testing.assert_allclose(prox.value(p), value, rtol=1e-14)


@pytest.mark.parametrize("imaginary", [0.0, 1.0])
def test_block_soft_threshold(x64: None, imaginary: float):
    real, strengths = np.asarray(point(0)["m"]), np.linspace(0.2, 4.0, 4)
    p: Any = np.asarray(real + 1j * np.asarray(point(1)["m"]) if imaginary else real)
    whole = group_l2(1.5)
    np.testing.assert_allclose(whole(p, 0.5), reference.block_soft_threshold(p, 0.75), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(whole.value(p), 1.5 * np.linalg.norm(p), rtol=1e-14)
    columns = group_l2(strengths, axis=-2)
    expected = [reference.block_soft_threshold(p[:, j], 0.5 * s) for j, s in enumerate(strengths)]
    np.testing.assert_allclose(columns(p, 0.5), np.stack(expected, 1), rtol=1e-14, atol=1e-15)
    assert not np.any(np.asarray(columns(p, 0.5))[:, -1])
    np.testing.assert_allclose(columns.value(p), np.sum(strengths * np.linalg.norm(p, axis=0)), rtol=1e-14)


def test_groups_through_leaves(x64: None):
    """A hidden unit, its column of weights and its bias, is one group."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.standard_normal((3, 4)), rng.standard_normal(4)
    strengths = np.array([0.1, 1.0, 5.0, 0.5])
    prox = group_l2(strengths, {"kernel": 0, "bias": ()}, joint=True)
    params = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    units = np.concatenate([kernel, bias[None]])
    expected = np.stack([reference.block_soft_threshold(units[:, j], strengths[j]) for j in range(4)], 1)
    z = prox(params, 1.0)
    np.testing.assert_allclose(z["kernel"], expected[:3], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(z["bias"], expected[3], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(prox.value(params), np.sum(strengths * np.linalg.norm(units, axis=0)))
    tree = group_l2(2.0, joint=True)
    whole = np.concatenate([kernel.ravel(), bias])
    shrunk = reference.block_soft_threshold(whole, 2.0)
    np.testing.assert_allclose(tree(params, 1.0)["bias"], shrunk[12:], rtol=1e-14)
    np.testing.assert_allclose(tree.value(params), 2.0 * np.linalg.norm(whole), rtol=1e-14)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3, 3)])
@pytest.mark.parametrize("imaginary", [0.0, 1.0])
def test_singular_value_threshold(x64: None, shape: tuple[int, int], imaginary: float):
    rng = np.random.default_rng(0)
    batch: Any = rng.standard_normal((2, *shape))
    if imaginary:
        batch = batch + 1j * rng.standard_normal(batch.shape)
    prox = nuclear_norm(np.array([1.0, 2.0]))
    expected = [reference.singular_value_threshold(batch[k], 0.5 * (k + 1.0)) for k in range(2)]
    z = prox(jnp.asarray(batch), 0.5)
    np.testing.assert_allclose(z, np.stack(expected), atol=1e-12)
    value = sum((k + 1.0) * np.linalg.norm(batch[k], "nuc") for k in range(2))
    np.testing.assert_allclose(prox.value(jnp.asarray(batch)), value, rtol=1e-14)
    assert np.linalg.matrix_rank(np.asarray(nuclear_norm(2.0)(jnp.asarray(batch[0]), 1.0)), 1e-10) < 3


# prox_{s g}(p) + s·prox_{g*/s}(p/s) = p, and the conjugate of a norm is the indicator of the ball of
# its dual norm, so that the second term is the projection of p onto the ball of radius s·λ.
DUAL_BALLS: dict[str, tuple[Prox, Callable[[np.ndarray, float], np.ndarray]]] = {
    "l1": (l1(0.7), lambda p, r: np.clip(p, -0.7 * r, 0.7 * r)),
    "group_l2": (group_l2(0.7), lambda p, r: p * min(1.0, 0.7 * r / float(np.linalg.norm(p)))),
    "nuclear_norm": (nuclear_norm(0.7), lambda p, r: _spectral_ball(p, 0.7 * r)),
    "nonnegative": (nonnegative(), lambda p, r: np.minimum(p, 0.0)),
    "box": (box(-1.0, 0.5), lambda p, r: p - np.minimum(np.maximum(p, -1.0), 0.5)),
    # Of ½‖·‖²·μ it is ½‖·‖²/μ.
    "squares": (elastic_net(0.0, 0.7), lambda p, r: p * 0.7 * r / (1.0 + 0.7 * r)),
}


def _spectral_ball(p: np.ndarray, radius: float) -> np.ndarray:
    u, sigma, vh = np.linalg.svd(p, full_matrices=False)
    return u @ np.diag(np.minimum(sigma, radius)) @ vh


@pytest.mark.parametrize("name", DUAL_BALLS)
@pytest.mark.parametrize("step", [0.1, 1.0, 3.0])
def test_moreau_identity(name: str, step: float, x64: None):
    prox, conjugate = DUAL_BALLS[name]
    p = np.asarray(point(5)["m"])
    np.testing.assert_allclose(prox(jnp.asarray(p), step) + conjugate(p, step), p, atol=1e-14)


def test_the_l2_ball_is_the_dual_of_the_group(x64: None):
    p = point(6)
    ball = projection(optax.projections.projection_l2_ball, 0.9)
    both = moved(group_l2(0.9, joint=True)(p, 1.0), ball(p, 1.0), 1.0)
    assert_trees_close(both, p, rtol=1e-13, atol=1e-14)


def test_complex_balls_act_on_moduli(x64: None):
    z = np.asarray(point(0)["m"]) + 1j * np.asarray(point(1)["m"])
    for name in ("l2_ball", "l2_sphere"):
        result = optax_projection(name, {"scale": 1.5})(z, 1.0)
        np.testing.assert_allclose(result, z * 1.5 / np.linalg.norm(z), rtol=1e-14)


EPS = float(np.finfo(np.float32).eps)


@pytest.mark.parametrize("radius", [1.0, 1e-3])
@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l1_sphere"])
def test_a_sum_is_exact_where_coordinates_are_large(name: str, radius: float):
    """The rounding is in units of the radius, not of the largest coordinate."""
    p = (1e5 + np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    z = np.asarray(optax_projection(name, {"scale": radius})(jnp.asarray(p), 1.0), np.float64)
    expected = reference.simplex(p.astype(np.float64), float(np.float32(radius)))
    # A coordinate of p rounds to 1e5·EPS = 0.01, so that few are above the threshold.
    np.testing.assert_allclose(z, expected, rtol=0, atol=2 * EPS * radius)
    np.testing.assert_allclose(np.sum(z), radius, rtol=4 * EPS)


@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
@over(name for name in available(SETS) if name in ("hyperplane", "halfspace"))
def test_a_plane_is_exact_where_coordinates_are_large(name: str, unit: float):
    """Whatever the units of its normal, ⟨a, z⟩ rounds in those of z, of length 32, not of p, of 3e6."""
    p = (1e5 + np.random.default_rng(0).standard_normal(1000)).astype(np.float32)
    a = np.full(1000, unit, np.float32)
    z = np.asarray(optax_projection(name, {"a": a, "b": unit})(jnp.asarray(p), 1.0), np.float64)
    # A number is the normal of a plane too.
    np.testing.assert_array_equal(optax_projection(name, {"a": unit, "b": unit})(jnp.asarray(p), 1.0), z)
    expected = p.astype(np.float64) - np.mean(p.astype(np.float64)) + 1e-3
    # Two lengths of 32 and 32 for ⟨1, z⟩, and that divided by 32 for z.
    assert abs(np.sum(z) - 1.0) < 32 * 32 * EPS
    assert np.linalg.norm(z - expected) < 2 * 32 * EPS


@pytest.mark.parametrize("unit", [1e-30, 1e30])
@over(name for name in {**available(SETS), **available(SPHERES)} if name in ("l2_sphere", "vector"))
def test_small_and_large_units(name: str, unit: float):
    line = {"a": unit * np.array([3.0, -4.0, 0.0], np.float32)}
    z = optax_projection(name, line if name == "vector" else {})(unit * jnp.array([3.0, -4.0, 0.0]), 1.0)
    expected = np.array([3.0, -4.0, 0.0]) * (unit if name == "vector" else 0.2)
    np.testing.assert_allclose(z, expected, rtol=1e-6)


def test_every_coordinate_has_a_share_of_a_sphere():
    """A sign that is 0 loses none."""
    z = optax_projection("l1_sphere", {})(jnp.array([1e-30, -1e-30, 0.0, 0.0]), 1.0)
    np.testing.assert_array_equal(z, [0.25, -0.25, 0.25, 0.25])


@pytest.mark.parametrize("name", ["simplex", "l1_ball", "l1_sphere", "l2_ball", "l2_sphere"])
def test_a_radius_of_zero(name: str):
    """It is a point, and the nearest one of a small set moves from there as from elsewhere."""
    p = jnp.array([3.0, -4.0, 0.0])

    def solve(radius: jax.Array) -> jax.Array:
        return optax_projection(name, {"scale": radius})(p, 1.0)

    z, slope = jax.jvp(solve, (jnp.zeros([]),), (jnp.ones([]),))
    np.testing.assert_array_equal(z, 0.0)
    expected = [1, 0, 0] if name == "simplex" else [0, -1, 0] if "l1" in name else [0.6, -0.8, 0.0]
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_zeros_are_exact():
    """Positive zeros, so that no sign is left over either."""
    p = jnp.array([-0.25, 0.25, 0.5, -0.0, 2.0])
    for prox in (l1(0.5), elastic_net(0.5, 1.0)):
        z = np.asarray(jax.jit(prox)(p, 1.0))
        np.testing.assert_array_equal(z[:4], np.zeros(4))
        assert not np.any(np.signbit(z))
    assert not np.any(np.asarray(group_l2(5.0)(p, 1.0)))


@over(PENALTIES)
def test_a_step_of_zero_changes_nothing(name: str, x64: None):
    p = point(7)
    assert_trees_close(ALL[name]()(p, 0.0), p, rtol=1e-13, atol=1e-14)


def test_no_penalty_changes_no_bit():
    p = jnp.array([1.1, -3e-30, 2e30, jnp.inf])
    assert_trees_equal(l1(0.0)(p, 1.0), p)
    assert_trees_equal(group_l2(0.0)(p[:3], 1.0), p[:3])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norms_neither_over_nor_underflow(scale: float):
    p = scale * jnp.array([3.0, 4.0])
    np.testing.assert_allclose(group_l2(scale)(p, 1.0), 0.8 * p, rtol=1e-6)
    np.testing.assert_allclose(group_l2(1.0).value(p), 5.0 * scale, rtol=1e-6)


@over(ALL)
def test_nan_stays_visible(name: str):
    """A solver must see it; a group with a NaN is not a group of norm zero."""
    p = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), point(0))
    parts = jax.tree.leaves(jax.jit(ALL[name]())(p, 1.0))
    assert all(bool(jnp.all(jnp.isnan(a))) for a in parts)


def test_one_nan_is_a_group_of_nan():
    assert bool(jnp.all(jnp.isnan(group_l2(1.0)(jnp.array([jnp.nan, 0.5]), 1.0))))


def test_optax_bounds_are_those_of_the_box(x64: None):
    p = point(8)
    z = optax_projection("hypercube", {"scale": {"m": 0.6, "v": 0.2}})(p, 1.0)
    np.testing.assert_array_equal(z["m"], np.clip(p["m"], 0.0, 0.6))
    np.testing.assert_array_equal(z["v"], np.clip(p["v"], 0.0, 0.2))
    z = optax_projection("box", {"lower": -0.1, "upper": 0.3})(p, 1.0)
    np.testing.assert_array_equal(z["m"], np.clip(p["m"], -0.1, 0.3))
