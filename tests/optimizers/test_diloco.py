"""`snoo` over the replicas of a mesh: DiLoCo, and what it communicates."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false, reportOperatorIssue=false, reportReturnType=false

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from nag_optax import eval_params, momentum, snoo
from tests import reference
from tests.helpers import START, conditional_branches, hlo_computations, quartic_gradient

pytestmark = pytest.mark.four_devices

P = PartitionSpec
STEPS, PERIOD = 60, 7  # The last period is not complete.
TARGETS = np.random.default_rng(2).standard_normal((4, len(START)))


def pmean(tree: Any) -> Any:
    return jax.lax.pmean(tree, "replica")


def mesh(replicas: int) -> jax.sharding.Mesh:
    """Four devices. XLA splits the arrays of a replica over its own ones."""
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((replicas, 4 // replicas), ("replica", "own"), kinds, devices=jax.devices()[:4])


def over_replicas(optimizer: Any, replicas: int) -> tuple[Any, Any]:
    """((params, state), step): each replica has its row of every array, its own target and inner state."""

    def step(params: Any, state: Any, targets: Any) -> Any:
        grads = jax.vmap(quartic_gradient)(params) - targets
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return params, state, eval_params(state, params)

    params = jnp.broadcast_to(START, (replicas, len(START)))
    params = jax.device_put(params, NamedSharding(mesh(replicas), P("replica", "own")))
    state = optimizer.init(params)
    rows = jax.tree.map(lambda leaf: P("replica") if jnp.ndim(leaf) else P(), (params, state))
    mapped = jax.shard_map(
        step,
        mesh=mesh(replicas),
        in_specs=(*rows, P("replica")),
        out_specs=(*rows, P("replica")),
        axis_names={"replica"},
    )
    return (params, state), jax.jit(mapped)


@pytest.mark.parametrize("replicas", [4, 2], ids=["one-device-each", "two-devices-each"])
def test_against_the_paper(replicas: int, x64: None):
    optimizer = snoo(optax.sgd(0.05, 0.8), PERIOD, 0.7, 0.6, reduce=pmean)
    (params, state), step = over_replicas(optimizer, replicas)
    targets = jnp.asarray(TARGETS[:replicas])
    fasts, slows = [], []
    for _ in range(STEPS):
        # One step at a time: with few cores, collectives of steps in a queue may wait for each other.
        params, state, slow = jax.block_until_ready(step(params, state, targets))
        fasts.append(np.asarray(params))
        slows.append(np.asarray(slow))
    assert params.sharding.shard_shape(params.shape) == (1, len(START) * replicas // 4)

    inners = [
        reference.heavy_ball_step(lambda p, t=target: quartic_gradient(p) - t, 0.05, 0.8)
        for target in TARGETS[:replicas]
    ]
    fast, slow = reference.diloco(inners, START, PERIOD, lambda t: 0.7, lambda t: 0.6, STEPS)
    # float64 rounding over the steps of a contraction, with a margin.
    np.testing.assert_allclose(fasts, fast, rtol=0, atol=1e-12)
    np.testing.assert_allclose(slows, np.repeat(slow[:, None], replicas, 1), rtol=0, atol=1e-12)
    assert np.ptp(fast[-1], axis=0).max() > 1e-2


def test_replicas_communicate_at_an_outer_step_alone():
    (params, state), step = over_replicas(snoo(optax.sgd(0.05, 0.8), PERIOD, reduce=pmean), 4)
    text = step.lower(params, state, jnp.asarray(TARGETS, params.dtype)).compile().as_text()
    computations = hlo_computations(text)
    collective = re.compile(r"(all-|reduce-scatter|collective-)[\w-]*\(")
    found = [
        (name, line) for name, lines in computations.items() for line in lines if collective.search(line)
    ]
    _, rare = conditional_branches(computations["main"])
    _, outer = conditional_branches(computations[rare])
    ((place, line),) = found
    assert place == outer
    # One number for each parameter.
    assert re.search(rf"= f32\[(1,)?{len(START)}\]\S* all-reduce\(", line)


@pytest.mark.parametrize("reduce", [None, pmean], ids=["alone", "together"])
@pytest.mark.parametrize(
    "outer_momentum",
    [0.0, momentum.ogm(), momentum.restarting(momentum.ogm(), "speed")],
    ids=["none", "rule", "restarting"],
)
def test_a_state_made_of_replicated_parameters(reduce: Any, outer_momentum: Any):
    """Tracing alone: JAX checks over which axes of the mesh an array varies then."""
    optimizer = snoo(optax.sgd(0.1), 2, 0.7, outer_momentum, reduce=reduce)

    def run(target: jax.Array) -> jax.Array:
        params = jnp.zeros(target.shape)
        state = optimizer.init(params)
        for _ in range(3):
            updates, state = optimizer.update(params - target, state, params)
            params = optax.apply_updates(params, updates)
        return eval_params(state, params)

    rows = jax.shard_map(run, mesh=mesh(4), in_specs=P("replica"), out_specs=P("replica"))
    assert jax.eval_shape(rows, TARGETS).shape == TARGETS.shape


def test_types_where_all_replicas_have_one_gradient():
    """Parameters, slow weights and state stay typed as replicated, also in a scan."""
    optimizer = snoo(optax.sgd(0.1), 2, reduce=pmean)

    def run(targets: jax.Array) -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            updates, state = optimizer.update(pmean(params - targets[0]), state, params)
            return (optax.apply_updates(params, updates), state), None

        params = jnp.zeros(targets.shape[1:])
        return jax.lax.scan(step, (params, optimizer.init(params)), length=3)[0]

    params, _ = jax.eval_shape(
        jax.shard_map(run, mesh=mesh(4), in_specs=P("replica"), out_specs=P()), TARGETS
    )
    assert params.shape == START.shape
