"""The network and the optimizer of airbench, which learn CIFAR-10 in ten epochs.

Source: Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, arXiv:2404.00498, 2024. Whitening after
Page, *How to train your ResNet*, 2019; Lookahead after Zhang, Lucas, Hinton, Ba, NeurIPS 2019.
"""

from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import nag_optax
from nag_optax.layers.convolution import convolution
from nag_optax.layers.normalisation import max_pool_2x2, normalised

_BIAS_RATE = 64.0
"""The biases of batch normalisation learn so many times as fast."""
_PERIOD = 5
"""Steps between two meetings of the fast weights with the slow ones."""

# As in PyTorch: uniform in ±1/√(inputs of a unit).
_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _identity(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A convolution whose first units repeat its inputs; the others are drawn."""
    height, width, inputs, units = shape
    diagonal = jnp.arange(min(inputs, units))
    same = jnp.zeros(shape, dtype).at[height // 2, width // 2, diagonal, diagonal].set(1)
    return jnp.where(jnp.arange(units) < inputs, same, _uniform(key, shape, dtype))


class Fixed(nnx.Variable):
    """An array of the model that no optimizer moves."""


class _Whitening(nnx.Module):
    """Eight 2×2 filters a channel, fixed and of both signs, and their biases. `whiten` sets the filters."""

    def __init__(self, channels: int):
        size = 4 * channels
        pixels = jnp.eye(size).reshape(2, 2, channels, size)
        self.kernel = Fixed(jnp.concatenate([pixels, -pixels], -1))
        self.bias = nnx.Param(jnp.zeros(2 * size))

    def __call__(self, images: jax.Array) -> jax.Array:
        kernel = jnp.asarray(self.kernel, images.dtype)
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=layout) + self.bias


class _Block(nnx.Module):
    """Two convolutions, both normalised without a scale, then GELU; the first one is pooled."""

    def __init__(self, channels: int, units: int, *, rngs: nnx.Rngs):
        make = partial(nnx.BatchNorm, units, momentum=0.9, epsilon=1e-12, use_scale=False, rngs=rngs)
        self.conv1 = convolution(channels, units, 3, kernel_init=_identity, rngs=rngs)
        self.norm1 = make()
        self.conv2 = convolution(units, units, 3, kernel_init=_identity, rngs=rngs)
        self.norm2 = make()

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = _gelu(normalised(self.norm1, max_pool_2x2(self.conv1(x)), train))
        return _gelu(normalised(self.norm2, self.conv2(x), train))


def _largest(x: jax.Array) -> jax.Array:
    """(N, channels): the largest number of each channel of the images.

    By its place: the gradient of `max` asks which numbers equal it, and XLA may have rounded them otherwise.
    """
    pixels = x.shape[1] * x.shape[2]
    x = x.reshape(x.shape[0], pixels, x.shape[3])
    place = jnp.argmax(x, 1, keepdims=True)
    return jnp.sum(jnp.where(place == jnp.arange(pixels)[:, None], x, 0), 1)


_gelu = partial(nnx.gelu, approximate=False)


class Airbench(nnx.Module):
    """Whitening, three blocks, the largest number of each channel, and a head without a bias."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        widths: tuple[int, int, int] = (64, 256, 256),
        rngs: nnx.Rngs,
    ):
        *_, channels = image_shape
        first, second, third = widths
        self.whitening = _Whitening(channels)
        self.block1 = _Block(8 * channels, first, rngs=rngs)
        self.block2 = _Block(first, second, rngs=rngs)
        self.block3 = _Block(second, third, rngs=rngs)
        self.head = nnx.Linear(third, num_classes, use_bias=False, kernel_init=_uniform, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        del rngs
        x = _gelu(self.whitening(images))
        for block in (self.block1, self.block2, self.block3):
            x = block(x, train)
        return self.head(_largest(x)) / 9


def whiten(model: Airbench, images: np.ndarray) -> None:
    """Sets the filters of the first layer so that its outputs on these images are uncorrelated, of size 1.

    With Σ = E[v vᵀ] over all 2×2 patches v, the filters are ±u/√(λ + 0.0005), λ and u eigenpairs of Σ.

    Args:
        model: is changed.
        images: (N, height, width, channels), standardised.
    """
    height, width, channels = images.shape[1:]
    corners = [images[:, i : height - 1 + i, j : width - 1 + j] for i in (0, 1) for j in (0, 1)]
    patches = np.concatenate(corners, -1).reshape(-1, 4 * channels)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, channels, -1)
    model.whitening.kernel[...] = jnp.concatenate([filters, -filters], -1)


def nag_with_lookahead(
    rate: optax.Schedule, *, momentum: float, weight_decay: float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """PyTorch's form of Nesterov's method, with L2 regularisation, inside Lookahead.

    ```
    g ← s·g + λ·p                                 s = 64 for the biases of batch normalisation, else 1
    v ← m·v + g,   p ← p − lr·(g + m·v)
    after each 5th step t:   slow ← d·slow + (1 − d)·p,   p ← slow,   d = 0.95⁵·(t/steps)³
    ```

    Args:
        rate: lr, a schedule.
        momentum: m.
        weight_decay: λ.
        num_steps: the number of steps of the run.

    Returns:
        The optimizer, which is evaluated at the slow weights.
    """

    def faster(path: Any, g: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return _BIAS_RATE * g if fnmatchcase(f"/{name}", "*/norm*/bias") else g

    def new_share(meeting: jax.typing.ArrayLike) -> jax.Array:
        done = jnp.minimum(_PERIOD * (jnp.asarray(meeting) + 1) / num_steps, 1.0)
        return 1 - 0.95**_PERIOD * done**3

    inner = optax.chain(
        optax.stateless(lambda grads, _: jax.tree_util.tree_map_with_path(faster, grads)),
        optax.add_decayed_weights(weight_decay),
        nag_optax.nag(rate, momentum, accumulate="gradients"),
    )
    # Without momentum SNOO is Lookahead.
    return nag_optax.snoo(inner, _PERIOD, new_share, 0.0)
