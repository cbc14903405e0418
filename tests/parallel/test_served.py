"""The checkpoints of a server: those of a run of `nag` or `snoo`, from which the server goes on."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nag_optax
from nag_optax.parallel.served import checkpoint, dana, outer
from nag_optax.train.freezing import freeze
from nag_optax.train.step import TrainState
from tests import reference

PARAMS = {"a": jnp.arange(3.0), "b": jnp.ones(2)}
ZERO = jnp.int32(0)
SERVED = {
    "dana": (dana(optax.constant_schedule(0.1), 0.9), nag_optax.nag(0.1)),
    "delayed": (outer(0.7, 0.9, False), nag_optax.snoo(optax.sgd(0.1))),
    "diloco": (outer(0.7, 0.9, True), nag_optax.snoo(optax.sgd(0.1))),
}


@pytest.mark.parametrize("frozen", [(), ("b",)], ids=["whole", "frozen"])
@pytest.mark.parametrize("name", SERVED)
def test_a_server_of_one_worker_goes_on_where_its_checkpoint_was(name: str, frozen: tuple[str, ...]):
    """With its momentum. What is frozen has none in the checkpoint, as in a run without a server."""
    served, optimizer = SERVED[name]
    method, optimizer = served.method, freeze(optimizer, frozen) if frozen else optimizer
    draw = np.random.default_rng(0).standard_normal
    updates = [
        {"a": jnp.asarray(draw(3), jnp.float32), "b": jnp.full(2, 0.0 if frozen else 1.0)} for _ in range(5)
    ]

    def served_on(state: Any, part: Any, updates: Any) -> tuple[Any, Any]:
        for update in updates:
            state, part = method.receive(state, part, update)
        return state, part

    state, part = served_on(*method.join(method.init(PARAMS)), updates[:3])
    fresh = TrainState(ZERO, PARAMS, {}, optimizer.init(PARAMS), jnp.float32(0), ZERO)
    written = checkpoint(served, fresh, state, {}, 3, 0.0)
    assert jax.tree.map(jnp.shape, written) == jax.tree.map(jnp.shape, fresh)
    evaluated = nag_optax.eval_params(written.opt_state, written.params)
    again, _ = served_on(*method.join(served.read(written)), updates[3:])
    unbroken, _ = served_on(state, part, updates[3:])
    # The checkpoint holds p = x + m·v and m·v: a few roundings of numbers below 8.
    for found, expected in ((evaluated, state.params), (method.send(again), method.send(unbroken))):
        for here, there in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(here, there, rtol=0, atol=8 * 2.0**-22)
    assert float(jnp.abs(method.send(unbroken)["a"] - state.params["a"]).max()) > 0.1


def test_a_checkpoint_of_diloco_has_every_update_that_counts(x64):
    """It ends the round with those of two workers. The server itself waits for the third."""
    served, optimizer = SERVED["diloco"]
    draws, start = np.random.default_rng(1).standard_normal((8, 3)), np.arange(3.0)
    state, part = served.method.join(served.method.init(jnp.asarray(start)))
    state = state._replace(workers=jnp.int32(3))
    fresh = TrainState(ZERO, state.params, {}, optimizer.init(state.params), jnp.float32(0), ZERO)
    for count, update in enumerate(draws, 1):
        state, _ = served.method.receive(state, part, jnp.asarray(update))
        written = checkpoint(served, fresh, state, {}, count, 0.0)
        rounds = [draws[i : min(i + 3, count)] for i in range(0, count, 3)]
        expected = reference.diloco_rounds(rounds, start, 0.7, 0.9)
        found = nag_optax.eval_params(written.opt_state, written.params)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-12)
    assert int(state.arrivals) == 2 and int(state.workers) == 3
