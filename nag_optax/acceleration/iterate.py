"""How a state holds the iterate to evaluate: x itself, or the offset from the parameters to it.

x itself where it must be exact: in floating point p − w is x only to rounding, and a prox makes zeros
that must stay zeros; slow weights outlive the fast ones that are the parameters.

A state that knows its iterate says so by a method, which `eval_params` looks for:

    eval_params(params, *, learning_rate=None) -> params, x in place of the leaves that the state holds;
    the others are handed back as they are
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from nag_optax._arrays import path_name, wide
from nag_optax.acceleration.momentum.rule import Scalar


class IterateState(NamedTuple):
    """State of `fista`.

    Attributes:
        iterate: x, the tree of the parameters; zeros before the first step.
        started: scalar, False before the first step: x is the parameters themselves.
        rule_state: what the momentum rule carries.
        search: the state of the step size: `BacktrackingState`, or the count of steps where the
            learning rate is a schedule, or `()`.
    """

    iterate: Any
    started: jax.Array
    rule_state: Any
    search: Any

    def eval_params(self, params: Any, *, learning_rate: Scalar | None = None) -> Any:
        """x."""
        return StoredIterate(self.iterate, self.started).eval_params(params, learning_rate=learning_rate)


class StoredIterate(NamedTuple):
    """x itself.

    Attributes:
        iterate: x, the tree of the parameters; zeros before the first step.
        started: scalar, False before the first step: x is the parameters themselves.
    """

    iterate: Any
    started: jax.Array

    def eval_params(self, params: Any, *, learning_rate: Scalar | None = None) -> Any:
        """x."""
        del learning_rate
        (started,) = jax.tree.leaves(self.started)

        def read(p: jax.Array, x: jax.Array) -> jax.Array:
            return jnp.where(_lanes(started, x), x.astype(jnp.result_type(p)), p)

        return with_buffers(read, params, self.iterate)


class Lookahead(NamedTuple):
    """The offset that gives x = p + evaluation·offset.

    Attributes:
        offset: the tree of the parameters; None where x is p.
        evaluation: scalar; None where x is p.
    """

    offset: Any
    evaluation: jax.Array | None

    def eval_params(self, params: Any, *, learning_rate: Scalar | None = None) -> Any:
        """p + evaluation·offset, in parameter units."""
        del learning_rate
        # nnx wraps every array of the state; the one leaf of the wrapper is the array.
        factors = jax.tree.leaves(self.evaluation)
        return shifted(params, self.offset, *factors) if factors else params


class OuterState(NamedTuple):
    """State of `snoo`, `ema_nesterov` and `gpa`, which go around an inner optimizer.

    Attributes:
        evaluated: the iterate to evaluate, a `StoredIterate` or a `Lookahead`. It takes the place
            of an inner accelerator's iterate.
        method_state: the other state of the method: scalars, and the momentum of `snoo`.
        inner_state: the state of the inner optimizer.
    """

    evaluated: Any
    method_state: Any
    inner_state: Any

    def eval_params(self, params: Any, *, learning_rate: Scalar | None = None) -> Any:
        """The iterate of the outer method."""
        return self.evaluated.eval_params(params, learning_rate=learning_rate)


def offset_of(state: IterateState, params: Any) -> Any:
    """w = p − x, at least in float32; zero before the first step."""

    def leaf(p: jax.Array, x: jax.Array) -> jax.Array:
        dtype = wide(jnp.result_type(p), x.dtype)
        return jnp.where(state.started, jnp.asarray(p, dtype) - x.astype(dtype), jnp.zeros([], dtype))

    return jax.tree.map(leaf, params, state.iterate)


def shifted(params: Any, offset: Any, factor: jax.Array) -> Any:
    """p + factor·w where there is a w, computed in the widest dtype of the three and rounded once."""

    def read(p: jax.Array, w: jax.Array) -> jax.Array:
        dtype = wide(jnp.result_type(p), w.dtype, factor.dtype)
        x = jnp.asarray(p, dtype) + _lanes(factor, w).astype(dtype) * w.astype(dtype)
        return x.astype(jnp.result_type(p))

    return with_buffers(read, params, offset)


def with_buffers(read: Callable[[jax.Array, jax.Array], jax.Array], params: Any, buffers: Any) -> Any:
    """The parameters, with read(p, buffer) in place of each for which there is a buffer at its path."""
    leaves = _leaves_with_path(params)
    shapes = {path: jnp.shape(p) for path, p in leaves}
    held = dict(_leaves_with_path(buffers))
    if [*held] == [()] and () not in shapes:
        # optax.flatten gives its optimizer all parameters as one vector.
        vector, restore = ravel_pytree(params)
        if vector.shape == held[()].shape:
            return restore(read(vector, held[()]))
    for path, buffer in held.items():
        if shapes.get(path) != buffer.shape:
            what = "which params lack" if path not in shapes else f"of another shape than {shapes[path]}"
            raise ValueError(
                f"opt_state holds an offset for {path_name(path, 'the root')} of shape {buffer.shape}, "
                f"{what}: pass the parameters that this state was made for; of an nnx module, "
                "nnx.state(model, nnx.Param)"
            )
    return jax.tree.structure(params).unflatten(
        [read(p, held[path]) if path in held else p for path, p in leaves]
    )


def _leaves_with_path(tree: Any) -> list[tuple[Any, jax.Array]]:
    """Leaves and their paths, less the `.value` with which an nnx tree ends each path."""
    wrapper = jax.tree_util.GetAttrKey("value")
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(path[:-1] if path[-1:] == (wrapper,) else path, leaf) for path, leaf in flat]


def _lanes(scalar: jax.Array, leaf: jax.Array) -> jax.Array:
    """A vmapped optimizer has one scalar for each lane."""
    return jnp.reshape(scalar, scalar.shape + (1,) * (leaf.ndim - scalar.ndim))
