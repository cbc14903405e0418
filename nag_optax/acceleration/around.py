"""A linear recursion around an inner optimizer, whose step it takes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import buffer_dtype
from nag_optax._arrays import check_buffers, is_none, wide, zero_buffers
from nag_optax.acceleration.iterate import Lookahead, OuterState
from nag_optax.acceleration.step import Recursion


def around(
    inner: optax.GradientTransformation,
    recursion: Recursion | None,
    accumulator_dtype: jax.typing.DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """The inner optimizer with the recursion after it; without one, the inner optimizer's own steps."""
    inner = checked_inner(inner)
    dtype = buffer_dtype(accumulator_dtype)

    def init_fn(params: optax.Params) -> OuterState:
        if recursion is None:
            return OuterState(Lookahead(None, None), (), inner.init(params))
        offset = zero_buffers(params, dtype)
        scalars = recursion.start(offset)
        return OuterState(Lookahead(offset, recursion.evaluated(scalars)), scalars, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if recursion is not None:
            check_buffers(updates, dtype, state.evaluated.offset)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        if recursion is None:
            return step, state._replace(inner_state=inner_state)
        step, offset, scalars = recursion.step(
            state.method_state, state.evaluated.offset, as_wide_as(updates, step)
        )
        evaluated = Lookahead(offset, recursion.evaluated(scalars, state.evaluated.evaluation))
        return in_dtypes_of(updates, step), OuterState(evaluated, scalars, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def checked_inner(inner: Any, name: str = "inner") -> optax.GradientTransformationExtraArgs:
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation (of an optax.MultiSteps, its "
            f"gradient_transformation()); got {inner!r} of type {type(inner).__name__}"
        )
    return optax.with_extra_args_support(inner)


def as_wide_as(updates: optax.Updates, step: optax.Updates) -> optax.Updates:
    """The step in a dtype that holds the incoming update's and float32, so that it is rounded once."""

    def leaf(u: Any, g: Any) -> Any:
        return None if u is None else jnp.asarray(u, wide(jnp.result_type(u), jnp.result_type(g)))

    return jax.tree.map(leaf, step, updates, is_leaf=is_none)


def in_dtypes_of(updates: optax.Updates, step: optax.Updates) -> optax.Updates:
    return jax.tree.map(
        lambda g, u: None if g is None or u is None else u.astype(jnp.result_type(g)),
        updates,
        step,
        is_leaf=is_none,
    )
