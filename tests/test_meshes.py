"""Each device by itself, under `shard_map` with its default checks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, PartitionSpec

import nag_optax
from tests.cases import CASES
from tests.helpers import assert_trees_close, sphere

SPLIT, SAME = PartitionSpec("d"), PartitionSpec()

SEARCHES = {
    f"search-{restart}": nag_optax.fista(prox=nag_optax.prox.l1(0.1), restart=restart)
    for restart in ("gradient", "speed", "value", None)
}
OPTIMIZERS = {case.name: case.make() for case in CASES} | SEARCHES


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


@pytest.mark.parametrize("name", OPTIMIZERS)
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
    "search": nag_optax.fista(prox=nag_optax.prox.l1(0.1)),
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
