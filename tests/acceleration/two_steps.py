"""Two steps down Σp², and the iterate after them by hand."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportArgumentType=false
# pyright: reportCallIssue=false

from typing import Any

import jax
import jax.numpy as jnp
import optax

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


def primary_iterate(p: Any) -> Any:
    """x after two steps down p² at the rate 0.1 with momentum 0.9, by hand."""
    x = p * (1 - 0.2)
    y = x + 0.9 * (x - p)
    return y * (1 - 0.2)


EXPECTED = jax.tree.map(primary_iterate, params_tree())
LABELS = {"body": {"w": "first", "b": "second"}, "head": "second"}
MASK = {"body": {"w": True, "b": True}, "head": False}
