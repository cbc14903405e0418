"""A linear recursion around an inner optimizer: the kernel, with a velocity that is not the lookahead.

    w⁺ = b·w + k·u      u, the step of the inner optimizer; w, the one buffer
    Δ  = a·u + c·w⁺     the update that is returned;  x = p + e·w is the iterate to evaluate

The kernel has a = c = 1, so that w is the lookahead itself. Where the lookahead is only a part of what w
sums, a schedule may set that part to zero and back, and w loses nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._buffers import buffer_dtype, check_buffers, owned, zero_buffers
from nag_optax._dtypes import wide
from nag_optax._trees import is_none
from nag_optax.acceleration.iterate import Lookahead, OuterState
from nag_optax.acceleration.kernel import linear_step
from nag_optax.acceleration.momentum.rule import Scalar


class Recursion(NamedTuple):
    """What a method is, apart from the inner optimizer.

    Attributes:
        init: `init() -> scalars`, a pytree of arrays of fixed shapes and dtypes.
        coefficients: `coefficients(scalars) -> ((b, k, a, c), scalars)`; a or c None where it is 1.
        evaluation: `evaluation(scalars) -> e`, of the scalars after the step.
    """

    init: Callable[[], Any]
    coefficients: Callable[[Any], tuple[tuple[Scalar, Scalar, Scalar | None, Scalar | None], Any]]
    evaluation: Callable[[Any], Scalar]


def around(
    inner: optax.GradientTransformation,
    recursion: Recursion | None,
    accumulator_dtype: jax.typing.DTypeLike | None,
) -> optax.GradientTransformationExtraArgs:
    """The inner optimizer with the recursion after it; without one, the inner optimizer's own steps."""
    inner = checked_inner(inner)
    dtype = buffer_dtype(accumulator_dtype)

    def lookahead(offset: Any, scalars: Any) -> Lookahead:
        if recursion is None:
            return Lookahead(None, None)
        return Lookahead(offset, jnp.asarray(recursion.evaluation(scalars), float))

    def init_fn(params: optax.Params) -> OuterState:
        scalars = () if recursion is None else owned(recursion.init())
        offset = None if recursion is None else zero_buffers(params, dtype)
        return OuterState(lookahead(offset, scalars), scalars, inner.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        if recursion is None:
            step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
            return step, state._replace(inner_state=inner_state)
        check_buffers(updates, dtype, state.evaluated.offset)
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        (b, k, a, c), scalars = recursion.coefficients(state.method_state)
        step, offset = linear_step(b, k, widened(step, updates), state.evaluated.offset, a, c)
        step, scalars = in_dtypes_of(updates, step), owned(scalars)
        return step, OuterState(lookahead(offset, scalars), scalars, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def checked_inner(inner: Any, name: str = "inner") -> optax.GradientTransformationExtraArgs:
    if not isinstance(inner, optax.GradientTransformation):
        raise TypeError(
            f"{name} must be an optax.GradientTransformation (of an optax.MultiSteps, its "
            f"gradient_transformation()); got {inner!r} of type {type(inner).__name__}"
        )
    return optax.with_extra_args_support(inner)


def widened(step: optax.Updates, updates: optax.Updates) -> optax.Updates:
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
