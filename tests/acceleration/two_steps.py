"""Two steps down Σp², and the iterate after them by hand."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import nag_optax

RATE = 0.1


def params_tree() -> dict[str, Any]:
    return {"body": {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([0.5])}, "head": jnp.array([3.0, 4.0])}


def two_updates(optimizer: optax.GradientTransformation, params: Any, **extra: Any) -> tuple[Any, Any]:
    """Two steps down Σp², so that w is the sum of two."""
    optimizer = optax.with_extra_args_support(optimizer)
    state = optimizer.init(params)
    for _ in range(2):
        grads = jax.tree.map(lambda p: 2 * p, params)
        updates, state = optimizer.update(grads, state, params, **extra)
        params = optax.apply_updates(params, updates)
    return params, state


class HalvedState(NamedTuple):
    """State of `halved`, which answers for the one that it wraps."""

    stored: Any

    def eval_params(self, params: Any, *, learning_rate: Any = None) -> Any:
        return nag_optax.eval_params(_cast(self.stored, jnp.float32), params, learning_rate=learning_rate)


def halved(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """A user's own: the inner state in float16 between steps."""

    def init(params: Any) -> HalvedState:
        return HalvedState(_cast(inner.init(params), jnp.float16))

    def update(updates: Any, state: HalvedState, params: Any = None) -> Any:
        updates, inner_state = inner.update(updates, _cast(state.stored, jnp.float32), params)
        return updates, HalvedState(_cast(inner_state, jnp.float16))

    return optax.GradientTransformation(init, update)


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def primary_iterate(p: Any) -> Any:
    """x after two steps down p² at the rate 0.1 with momentum 0.9, by hand."""
    x = p * (1 - 0.2)
    y = x + 0.9 * (x - p)
    return y * (1 - 0.2)


EXPECTED = jax.tree.map(primary_iterate, params_tree())
LABELS = {"body": {"w": "first", "b": "second"}, "head": "second"}
MASK = {"body": {"w": True, "b": True}, "head": False}
