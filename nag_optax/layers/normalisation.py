"""Batch normalisation, alone and with the ReLU and the pooling that follow it; their gradients are written.

With these, the three need a few passes over the large array. A scale keeps the order of numbers or reverses
it, so the largest of four normalised numbers comes from the largest or the smallest of the four. Therefore
only a quarter of the array is normalised, with the same arithmetic. XLA's own gradient of the three takes
three times as long on a CPU.
"""

from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax


def normalised(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """The batch normalisation of x; a frozen one always takes the running average."""
    if norm.use_running_average or not train:
        return norm(x, use_running_average=True)
    norm(x, use_running_average=False)  # For the running averages: XLA drops the rest.
    return _of_batch(x, *_parameters(norm), norm.epsilon)


def normalised_and_pooled(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    """`max_pool_2x2` of the ReLU of `normalised`.

    Args:
        norm: has a scale and a bias.
        x: images, (N, height, width, channels).
        train: whether the batch gives the statistics.
    """
    scale, bias = _parameters(norm)
    if norm.use_running_average or not train:
        sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
        return nnx.relu(normalised(norm, max_pool_2x2(x * sign) * sign, train))
    norm(x, use_running_average=False)  # For the running averages: XLA drops the rest.
    return _of_batch_and_pooled(x, scale, bias, norm.epsilon)


def max_pool_2x2(x: jax.Array) -> jax.Array:
    """2×2 max pooling, stride 2; an odd last row or column is dropped.

    A maximum over reshaped axes: the gradient of `nnx.max_pool` scatters, which is 7 times slower. It asks
    which numbers equal the maximum, so x must not be rounded otherwise there than here: if it comes from
    products and sums, which XLA may compute anew, the gradient can be infinite.
    """
    return _windows(x).max((2, 4))


def _windows(x: jax.Array) -> jax.Array:
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels)


def _four(x: jax.Array) -> list[jax.Array]:
    """The four numbers of each window: XLA for CPU takes three times as long for a reduction of them."""
    windows = _windows(x)
    return [windows[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]


def _parameters(norm: nnx.BatchNorm) -> tuple[jax.Array, jax.Array]:
    """The scale and the bias. A layer without a scale has ones."""
    params = nnx.to_pure_dict(nnx.state(norm, nnx.Param))
    return params.get("scale", jnp.ones_like(params["bias"])), params["bias"]


def _statistics(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    """The mean and the inverse of the deviation, of each channel."""
    axes = tuple(range(x.ndim - 1))
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean(axes)
    variance = jnp.maximum(0.0, (wide * wide).mean(axes) - mean * mean)
    return mean, lax.rsqrt(variance + epsilon)


def _gradients(
    of_batch: Any, g: jax.Array, for_scale: jax.Array, for_bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """y = s x̂ + b with x̂ = (x − mean)/σ has the gradient s/σ (g − Σg/n − x̂ Σ(g x̂)/n)."""
    x, scale, bias, mean, inverse = of_batch
    count = x.size // x.shape[-1]
    centred = g - for_bias / count - (x - mean) * (inverse * for_scale / count)
    grad = scale * inverse * centred
    return grad.astype(x.dtype), for_scale.astype(scale.dtype), for_bias.astype(bias.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _of_batch(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, Any]:
    mean, inverse = _statistics(x, epsilon)
    y = (x - mean) * (inverse * scale) + bias
    return y.astype(jnp.result_type(x, scale, bias)), (x, scale, bias, mean, inverse)


def _backward(epsilon: float, residuals: Any, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    del epsilon
    x, *_, mean, inverse = residuals
    g, axes = g.astype(inverse.dtype), tuple(range(x.ndim - 1))
    for_bias = g.sum(axes)
    # Not Σ g·(x − mean): XLA for CPU would write the differences to memory.
    for_scale = ((g * x).sum(axes) - mean * for_bias) * inverse
    return _gradients(residuals, g, for_scale, for_bias)


_of_batch.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _of_batch_and_pooled(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    return _forward_and_pool(x, scale, bias, epsilon)[0]


def _forward_and_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, Any]:
    mean, inverse = _statistics(x, epsilon)
    four = _four(x)
    extreme = jnp.where(scale < 0, reduce(jnp.minimum, four), reduce(jnp.maximum, four))
    y = (extreme - mean) * (inverse * scale) + bias
    out = nnx.relu(y.astype(jnp.result_type(x, scale, bias)))
    return out, (x, scale, bias, mean, inverse, extreme, out)


def _backward_from_pool(
    epsilon: float, residuals: Any, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The gradient goes to the extremes."""
    del epsilon
    *of_batch, extreme, out = residuals
    x, *_, mean, inverse = of_batch
    g = jnp.where(out > 0, g, 0).astype(inverse.dtype)
    for_scale = (g * (extreme - mean)).sum((0, 1, 2)) * inverse
    # Equal extremes share their gradient.
    share = g / sum((each == extreme).astype(g.dtype) for each in _four(x))

    def spread(pooled: jax.Array) -> jax.Array:
        return pooled[:, :, None, :, None]

    at_extremes = jnp.where(_windows(x) == spread(extreme), spread(share), 0)
    n, height, width, channels = x.shape
    at_extremes = at_extremes.reshape(n, height // 2 * 2, width // 2 * 2, channels)
    at_extremes = jnp.pad(at_extremes, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    return _gradients(of_batch, at_extremes, for_scale, g.sum((0, 1, 2)))


_of_batch_and_pooled.defvjp(_forward_and_pool, _backward_from_pool)
