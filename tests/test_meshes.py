"""Each device by itself, under `shard_map` with its default checks, and meshes with explicit axes."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import nag_optax
from nag_optax import prox
from tests.cases import CASES
from tests.helpers import arrays_like, assert_trees_close, sphere, wavering

pytestmark = pytest.mark.four_devices

P = PartitionSpec
SPLIT, SAME = P("d"), P()

SEARCHES = {
    f"search-{restart}": nag_optax.fista(prox=prox.l1(0.1), restart=restart)
    for restart in ("gradient", "speed", "value", None)
}
OUTER = {"snoo-wavering": nag_optax.snoo(optax.sgd(0.1), 2, outer_momentum=wavering(0.9))}
OPTIMIZERS = {case.name: case.make() for case in CASES} | SEARCHES | OUTER
EXHAUSTIVE = {case.name for case in CASES if case.exhaustive}


def over(names: Any) -> Any:
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=[pytest.mark.exhaustive] if n in EXHAUSTIVE else []) for n in names],
    )


def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()[:4]), ("d",))


def train(optimizer: Any, loss: Any, params: Any, steps: int = 4) -> Any:
    """Parameters after some steps, in a scan: it takes no state that changes its type."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        value, grad = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


@over(OPTIMIZERS)
@pytest.mark.parametrize("spec", [SPLIT, SAME], ids=["split", "same"])
def test_the_types_of_a_state_stay(name: str, spec: PartitionSpec):
    params = {"a": jnp.ones((8, 2)), "b": jnp.ones(4)}
    run = jax.shard_map(
        lambda params: train(OPTIMIZERS[name], sphere, params), mesh=mesh(), in_specs=spec, out_specs=spec
    )
    # Tracing alone: JAX checks how each array of a loop varies over the mesh then.
    after = jax.eval_shape(run, params)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, params)


# What decides by numbers of its own: on one device it restarts or halves where on another it does not.
DECIDING = {
    "gradient": nag_optax.nag(0.1, 0.9, restart="gradient"),
    "speed": nag_optax.nag(0.1, 0.9, restart="speed"),
    "value": nag_optax.nag(0.1, 0.9, restart="value"),
    "norm": optax.chain(nag_optax.scale_by_gradient_norm(), optax.sgd(0.1)),
    "search": nag_optax.fista(prox=prox.l1(0.1)),
}


def test_each_device_decides_by_itself():
    targets, curvatures = jnp.arange(12.0).reshape(4, 3), jnp.array([0.3, 1.0, 4.0, 9.0])

    def one(target: jax.Array, curvature: jax.Array) -> Any:
        def loss(x: jax.Array) -> jax.Array:
            return 0.5 * curvature * jnp.sum((x - target) ** 2)

        return {name: train(opt, loss, 0 * target, steps=8) for name, opt in DECIDING.items()}

    together = jax.jit(jax.shard_map(jax.vmap(one), mesh=mesh(), in_specs=(SPLIT, SPLIT), out_specs=SPLIT))(
        targets, curvatures
    )
    alone = jax.jit(jax.vmap(one))(targets, curvatures)
    # The same operations on the same numbers, but XLA may fuse them otherwise.
    assert_trees_close(together, alone, rtol=1e-5)


def test_one_problem_whose_data_are_split():
    """Parameters alike on every device, and the mean of f over devices: the steps of one device."""
    targets = jnp.arange(12.0).reshape(4, 3)

    def distance(x: jax.Array, targets: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((x[None] - targets) ** 2) / len(targets)

    def steps(loss: Any) -> Any:
        return {name: train(opt, loss, jnp.zeros(3)) for name, opt in DECIDING.items()}

    together = jax.jit(
        jax.shard_map(
            lambda local: steps(lambda x: jax.lax.pmean(distance(x, local), "d")),
            mesh=mesh(),
            in_specs=SPLIT,
            out_specs=SAME,
        )
    )(targets)
    alone = jax.jit(lambda: steps(lambda x: distance(x, targets)))()
    assert_trees_close(together, alone, rtol=1e-5)


def lasso(target: jax.Array, strength: jax.Array) -> Any:
    """(Σx², (x, whether it converged)) of min ½‖x − target‖² + strength·‖x‖₁."""

    def distance(x: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((x - target) ** 2)

    solution = nag_optax.minimize(distance, 0 * target, prox=prox.l1(strength))
    return jnp.sum(solution.params**2), (solution.params, solution.converged)


def assert_is_the_lasso(found: Any, target: jax.Array, strength: jax.Array) -> None:
    """Of what `value_and_grad` by the strength returns."""
    (_, (x, converged)), slope = found
    solution = np.sign(target) * np.maximum(np.abs(target) - strength, 0)
    # The tolerance of minimize is 1e-6 of the first gradient, whose norm is below 20.
    np.testing.assert_allclose(x, solution, atol=2e-5)
    np.testing.assert_allclose(slope, -2 * np.abs(solution).sum(-1), atol=2e-4)
    assert np.all(converged)


def test_minimize_on_each_device():
    targets, strengths = jnp.arange(12.0).reshape(4, 3) - 5, jnp.array([0.5, 1.0, 1.5, 2.0])
    solve = jax.vmap(jax.value_and_grad(lasso, argnums=1, has_aux=True))
    found = jax.jit(jax.shard_map(solve, mesh=mesh(), in_specs=SPLIT, out_specs=SPLIT))(targets, strengths)
    assert_is_the_lasso(found, targets, strengths[:, None])


def test_minimize_where_data_are_split():
    targets = jnp.arange(12.0).reshape(4, 3)

    def solve(local: jax.Array) -> jax.Array:
        def mean(x: jax.Array) -> jax.Array:
            return jax.lax.pmean(0.5 * jnp.sum((x[None] - local) ** 2), "d")

        return nag_optax.minimize(mean, jnp.zeros(3)).params

    x = jax.jit(jax.shard_map(solve, mesh=mesh(), in_specs=SPLIT, out_specs=SAME))(targets)
    np.testing.assert_allclose(x, targets.mean(0), rtol=1e-5)


def test_minimize_on_explicit_axes():
    target, strength = jnp.arange(8.0) - 3, jnp.array(0.5)
    split_target = split(target, P("d"))
    found = jax.jit(jax.value_and_grad(lasso, argnums=1, has_aux=True))(split_target, strength)
    assert_is_the_lasso(found, target, strength)
    assert_same_shardings(found[0][1][0], split_target)


def explicit_mesh() -> Mesh:
    return jax.make_mesh((2, 2), ("d", "e"), axis_types=(AxisType.Explicit,) * 2, devices=jax.devices()[:4])


def split(params: Any, specs: Any) -> Any:
    """The parameters on a mesh of explicit axes."""
    shardings = jax.tree.map(lambda spec: NamedSharding(explicit_mesh(), spec), specs, is_leaf=_is_spec)
    return jax.device_put(params, shardings)


def assert_same_shardings(tree: Any, params: Any) -> None:
    for found, p in zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True):
        assert found.sharding.is_equivalent_to(p.sharding, p.ndim)


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)


def tensors() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shapes = {"matrix": (8, 4), "kernel": (2, 2, 4, 4), "bias": (4,)}
    return {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}


SPECS = {
    "rows": {"matrix": P("d"), "kernel": P(None, None, "d"), "bias": P("d")},
    "columns": {"matrix": P(None, "e"), "kernel": P(None, None, None, "d"), "bias": P()},
    "both": {"matrix": P("d", "e"), "kernel": P("d", "e"), "bias": P(("d", "e"))},
}
MUON = {
    "muon-joined": nag_optax.muon(0.1, matrices=lambda path, leaf: leaf.ndim > 1),
    "muon-stacked": nag_optax.muon(
        0.1, matrices=lambda path, leaf: leaf.ndim > 1 and nag_optax.Matrix(-2, -1)
    ),
}


@over(OPTIMIZERS | MUON)
def test_shardings_stay_on_explicit_axes(name: str):
    params = split(tensors(), SPECS["both"])
    optimizer = optax.with_extra_args_support((OPTIMIZERS | MUON)[name])
    # The types alone; a scan takes no update and no state that changes its sharding.
    state, after = jax.eval_shape(
        lambda params: (optimizer.init(params), train(optimizer, sphere, params)), params
    )
    specs = {p.shape: jax.typeof(p).sharding.spec for p in params.values()}
    for found in [*jax.tree.leaves(after), *arrays_like(state, params)]:
        assert found.sharding.spec == specs[found.shape]


@pytest.mark.parametrize("specs", SPECS.values(), ids=list(SPECS))
def test_muon_on_explicit_axes_equals_one_device(specs: Any):
    def update(params: Any) -> Any:
        return {name: muon.update(params, muon.init(params), params)[0] for name, muon in MUON.items()}

    params = split(tensors(), specs)
    updates = jax.block_until_ready(jax.jit(update)(params))
    # Five Newton–Schulz steps have slope 3.4445⁵ at zero; the learning rate is 0.1.
    assert_trees_close(updates, jax.jit(update)(tensors()), 0, 0.1 * 3.4445**5 * 2.0**-23)
    for one in updates.values():
        assert_same_shardings(one, params)


OPERATORS = {
    "nuclear_norm": prox.separable(
        {"matrix": prox.nuclear_norm(0.5), "kernel": prox.nuclear_norm(jnp.array([0.5, 0.2]))}
    ),
    "group_l2": prox.group_l2(0.5, {"matrix": 0, "kernel": (0, 1, 2), "bias": ()}, joint=True),
    "simplex": prox.projection(optax.projections.projection_simplex, scale=1),
    "l1_ball": prox.projection(optax.projections.projection_l1_ball, scale=jnp.array(2.0)),
    "l2_ball": prox.projection(optax.projections.projection_l2_ball, scale=2.0),
}


def test_operators_on_explicit_axes_equal_one_device():
    def call(params: Any) -> Any:
        return {name: (operator(params, 0.3), operator.value(params)) for name, operator in OPERATORS.items()}

    params = split(tensors(), SPECS["both"])
    results = jax.block_until_ready(jax.jit(call)(params))
    # Numbers of about 1, summed in another order.
    assert_trees_close(results, jax.jit(call)(tensors()), rtol=1e-5, atol=1e-6)
    for z, _ in results.values():
        assert_same_shardings(z, params)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", [P(), P(None, None), P("d")], ids=str)
def test_state_is_made_outside_of_jit(kind: AxisType, spec: PartitionSpec):
    """JAX gives a scalar made like a replicated array the sharding of that, of whatever rank."""
    sharding = NamedSharding(jax.make_mesh((4,), ("d",), axis_types=(kind,)), spec)
    params = jax.device_put(jnp.ones((8, 2)), sharding)
    state = nag_optax.fista(restart="speed").init(params)
    assert state.iterate.sharding.is_equivalent_to(sharding, 2)
    assert state.rule_state.seen.shape == state.search.step_size.shape == ()
