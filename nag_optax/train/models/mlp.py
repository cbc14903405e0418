"""The multilayer perceptron."""

import jax
from flax import nnx


class MLP(nnx.Module):
    """One hidden layer, ReLU, dropout 0.2."""

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, widths: tuple[int, ...], rngs: nnx.Rngs
    ):
        height, width, channels = image_shape
        (units,) = widths
        self.hidden = nnx.Linear(height * width * channels, units, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.head = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = images.reshape(images.shape[0], -1)
        x = nnx.relu(self.hidden(x))
        x = self.dropout(x, deterministic=not train, rngs=rngs)
        return self.head(x)
