"""`scale_by_gradient_norm`: shorter steps where the gradient is large for its recent past."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nag_optax._arguments import check_number, is_python_number
from nag_optax._arrays import dot, varying_with, wide


class ScaleByGradientNormState(NamedTuple):
    """State of `scale_by_gradient_norm`.

    Attributes:
        num_norms: how many norms the average holds, int32.
        average: n̄, scalar; 0 before the first.
    """

    num_norms: jax.Array
    average: jax.Array


def scale_by_gradient_norm(
    decay: jax.typing.ArrayLike = 0.9,
    exponent: jax.typing.ArrayLike = 1.0,
    min_scale: jax.typing.ArrayLike = 0.1,
    max_scale: jax.typing.ArrayLike = 10.0,
) -> optax.GradientTransformationExtraArgs:
    """Shrinks the step while the gradient's norm is above its running average, and grows it below.

    ```
    Δ = s·u,   s = clip((n̄/n)^exponent, min_scale, max_scale),   n = ‖u‖
    n̄⁺ = (1 − η)·n̄ + η·min(n, n̄·min_scale^(−1/exponent)),   η = (1 − decay)/(1 − decayᵗ)
    ```

    u is the incoming update, and its norm is taken over all leaves. n̄ is the average of the norms
    before this one, with the weight decay^k for the one k steps back. The first step has s = 1. A norm
    so large that s = min_scale enters the average as the smallest such norm. So among equal norms a
    spike, however high, lengthens the next step by at most the factor 1 + (1/min_scale − 1)·η
    (exponent 1). A gradient that is zero or not finite leaves the average as it was. In float32 a norm
    below some 1e-19 counts as zero and one above 1e19 as infinite, because squares are summed.

    Put it in front of an optimizer, where it scales the gradient, or after plain descent, which is
    the same. In front of an adaptive optimizer, which divides by a running scale itself, it changes
    little but the weight of a spike.

    - **Clipping.** With exponent 1, min_scale 0 and max_scale 1 it clips by global norm, and n̄ is the
      threshold, so that you need not find one. A larger max_scale also lengthens small gradients.
      Exponent 1 without limits gives every step the length n̄.
    - **AdaGrad-norm** divides by the root of the sum of all n². Its steps only shrink, and a spike
      shrinks all that follow. Here the average forgets: while n is constant s is 1, and a spike is
      over after some 1/(1 − decay) steps.

    Args:
        decay: the decay of the average, in [0, 1); 0 compares only with the step before.
        exponent: ≥ 0; 0 turns the scaling off.
        min_scale: smallest s, in [0, 1).
        max_scale: largest s, at least 1; `math.inf` sets no limit.

    Returns:
        A transformation with two scalars of state, and one sum over devices where the updates are
        sharded.

    Raises:
        ValueError: if a Python number is out of range.
        TypeError: if an argument is no number.

    Example:
        >>> import jax.numpy as jnp, optax, nag_optax
        >>> optimizer = optax.chain(nag_optax.scale_by_gradient_norm(), nag_optax.nag(0.1))
        >>> params = jnp.array([3.0, 4.0])
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(params, state, params)
        >>> print(updates.round(2))
        [-0.57 -0.76]
        >>> transform = nag_optax.scale_by_gradient_norm()
        >>> state = transform.init(params)
        >>> for gradient in (params, 100 * params):
        ...     updates, state = transform.update(gradient, state)
        ...     print(updates)
        [3. 4.]
        [30. 40.]

    Source: the package's own combination of a running scale, as in Ward, Wu and Bottou, *AdaGrad
    stepsizes: sharp convergence over nonconvex landscapes*, ICML 2019 (AdaGrad-norm), and of
    clipping, as in Pascanu, Mikolov and Bengio, *On the difficulty of training recurrent neural
    networks*, ICML 2013. No bound is proven for it.
    """
    check_number("decay", decay, minimum=0, below=1)
    check_number("exponent", exponent, minimum=0)
    check_number("min_scale", min_scale, minimum=0, below=1)
    if not (is_python_number(max_scale) and max_scale == math.inf):
        check_number("max_scale", max_scale, minimum=1)

    def init_fn(params: optax.Params) -> ScaleByGradientNormState:
        return varying_with(ScaleByGradientNormState(jnp.zeros([], jnp.int32), jnp.zeros([], float)), params)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        updates = jax.tree.map(jnp.asarray, updates)
        average = state.average
        square = dot(updates, updates)
        # It is False for NaN, and keeps the root away from zero, where it has no derivative.
        positive = square > 0
        norm = jnp.sqrt(jnp.where(positive, square, 1.0))
        d, power, low, high = (jnp.asarray(x, norm.dtype) for x in (decay, exponent, min_scale, max_scale))

        comparable = positive & (state.num_norms > 0)
        ratio = jnp.where(comparable, average / norm, 1.0) ** power
        scale = jnp.where(comparable, jnp.clip(ratio, low, high), 1.0)

        count = jnp.asarray(optax.safe_increment(state.num_norms))
        rate = (1.0 - d) / (1.0 - d ** count.astype(norm.dtype))
        # Only for low and power above 0. Elsewhere no norm is too large, and the power has no derivative.
        spike = ratio < low
        smallest = average * jnp.where(spike, low, 1.0) ** (-1.0 / jnp.where(spike, power, 1.0))
        entering = jnp.where(spike, smallest, norm)
        enters = positive & jnp.isfinite(norm)
        average = jnp.where(enters, (1.0 - rate) * average + rate * entering, average)
        state = ScaleByGradientNormState(jnp.where(enters, count, state.num_norms), average)
        return jax.tree.map(lambda u: _scaled(scale, u), updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _scaled(scale: jax.Array, u: jax.Array) -> jax.Array:
    dtype = wide(u.dtype)
    return (scale.astype(dtype) * u.astype(dtype)).astype(u.dtype)
