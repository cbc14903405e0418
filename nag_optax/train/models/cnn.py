"""The small convolutional network."""

import jax
from flax import nnx

from nag_optax.layers.convolution import convolution
from nag_optax.layers.normalisation import normalised, normalised_and_pooled


class CNN(nnx.Module):
    """Two 3×3 convolutions, each with 2×2 pooling, and a dense layer; all batch-normalised, then ReLU."""

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, widths: tuple[int, ...], rngs: nnx.Rngs
    ):
        height, width, channels = image_shape
        first, second, units = widths
        # The biases are the batch normalisation's.
        self.conv1 = convolution(channels, first, 3, rngs=rngs)
        self.norm1 = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        self.conv2 = convolution(first, second, 3, rngs=rngs)
        self.norm2 = nnx.BatchNorm(second, momentum=0.9, rngs=rngs)
        pixels = (height // 4) * (width // 4)
        self.dense = nnx.Linear(pixels * second, units, use_bias=False, rngs=rngs)
        self.norm3 = nnx.BatchNorm(units, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        del rngs
        x = normalised_and_pooled(self.norm1, self.conv1(images), train)
        x = normalised_and_pooled(self.norm2, self.conv2(x), train)
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(normalised(self.norm3, self.dense(x), train))
        return self.head(x)
