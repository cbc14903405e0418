"""Wrappers of the optimizer of a run: for the gradient's norm, for float32, for an average."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

EVERY = 16
"""The gradient's norm is measured every so many steps. At each step it would cost a small model 4 %."""


class GradientNormState(NamedTuple):
    """Steps so far, int32, and the mean norm of this epoch, float32."""

    step: jax.Array
    mean: jax.Array


def with_gradient_norm(steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Changes nothing; its state holds the mean over an epoch of the gradients' global norm.

    The mean is over steps 0, 16, 32, … of the epoch. Frozen parameters, whose gradients nothing else needs,
    are left out, because this is a part of the chain.
    """

    def init_fn(params: optax.Params) -> GradientNormState:
        del params
        return GradientNormState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        step = state.step % steps_per_epoch

        def look() -> jax.Array:
            # The first look, of weight 1, begins the mean anew.
            weight = 1 / (step // EVERY + 1).astype(jnp.float32)
            return state.mean + weight * (optax.tree.norm(optax.tree.cast(updates, jnp.float32)) - state.mean)

        mean = jax.lax.cond(step % EVERY == 0, look, lambda: state.mean)
        return updates, GradientNormState(state.step + 1, mean)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gradient_norm(opt_state: Any) -> float:
    """The mean that a state of `with_gradient_norm` inside this one holds."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, GradientNormState))
    return next(float(node.mean) for node in nodes if isinstance(node, GradientNormState))


def in_float32(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The optimizer with gradients, parameters and its own state in float32, whatever it is given."""

    def init_fn(params: optax.Params) -> optax.OptState:
        return inner.init(optax.tree.cast(params, jnp.float32))

    def update_fn(updates, state, params: Any = None, **extra_args):
        wide = optax.tree.cast(params, jnp.float32)
        return inner.update(optax.tree.cast(updates, jnp.float32), state, wide, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AverageState(NamedTuple):
    """Steps so far, int32; the inner optimizer's state; the average, float32."""

    step: jax.Array
    inner_state: Any
    average: Any

    def eval_params(self, params: Any, *, learning_rate: jax.typing.ArrayLike | None = None) -> Any:
        """The average, in place of the inner optimizer's iterate."""
        del learning_rate
        return jax.tree.map(lambda a, p: a.astype(p.dtype), self.average, params)


def averaged(
    inner: optax.GradientTransformationExtraArgs, decay: float
) -> optax.GradientTransformationExtraArgs:
    """The optimizer's own steps, and an exponential moving average of the parameters for `eval_params`.

    ```
    a ← a + (1 − D)/(1 − Dᵗ)·(p⁺ − a)
    ```

    This is the bias-corrected average: a = Σ Dᵗ⁻ⁱ·pᵢ / Σ Dᵗ⁻ⁱ over the steps i = 1 … t.

    Source: Polyak, Juditsky, *Acceleration of stochastic approximation by averaging*, 1992; the correction
    as in Kingma, Ba, *Adam*, ICLR 2015.
    """

    def init_fn(params: optax.Params) -> AverageState:
        # A copy: the parameters may be donated.
        average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
        return AverageState(jnp.zeros([], jnp.int32), inner.init(params), average)

    def update_fn(updates, state, params: Any = None, **extra_args):
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        step = state.step + 1
        # 1 − Dᵗ without cancellation.
        share = (1 - decay) / -jnp.expm1(step.astype(jnp.float32) * math.log(decay))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + share * (p.astype(jnp.float32) - a), state.average, new)
        return updates, AverageState(step, inner_state, average)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
