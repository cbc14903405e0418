"""The models: what the trainer trains, and the smallest image that each can take."""

import jax
from flax import nnx

from nag_optax.train.convolution import conv_general_dilated, max_pool_2x2
from nag_optax.train.errors import InputError
from nag_optax.train.registry import MODELS, model_row
from nag_optax.train.rows import load_factory


class MLP(nnx.Module):
    """One hidden layer of 128, ReLU, dropout 0.2."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        widths: tuple[int, ...] = MODELS["mlp"].widths,
        rngs: nnx.Rngs,
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


class CNN(nnx.Module):
    """Two 3×3 convolutions of 64 and a dense layer of 512, each batch-normalised, then ReLU."""

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        widths: tuple[int, ...] = MODELS["cnn"].widths,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        first, second, units = widths
        self.conv1 = _conv3x3(channels, first, rngs)
        self.norm1 = nnx.BatchNorm(first, momentum=0.9, rngs=rngs)
        self.conv2 = _conv3x3(first, second, rngs)
        self.norm2 = nnx.BatchNorm(second, momentum=0.9, rngs=rngs)
        pixels = (height // 4) * (width // 4)
        self.dense = nnx.Linear(pixels * second, units, use_bias=False, rngs=rngs)
        self.norm3 = nnx.BatchNorm(units, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        del rngs
        x = self._block(images, self.conv1, self.norm1, train)
        x = self._block(x, self.conv2, self.norm2, train)
        x = x.reshape(x.shape[0], -1)
        x = nnx.relu(_normalised(self.norm3, self.dense(x), train))
        return self.head(x)

    def _block(self, x: jax.Array, conv: nnx.Conv, norm: nnx.BatchNorm, train: bool) -> jax.Array:
        return max_pool_2x2(nnx.relu(_normalised(norm, conv(x), train)))


def _normalised(norm: nnx.BatchNorm, x: jax.Array, train: bool) -> jax.Array:
    # A frozen one says that it always takes the running average.
    return norm(x, use_running_average=norm.use_running_average or not train)


def _conv3x3(channels: int, units: int, rngs: nnx.Rngs) -> nnx.Conv:
    # The bias is the batch normalisation's.
    return nnx.Conv(
        channels, units, (3, 3), use_bias=False, conv_general_dilated=conv_general_dilated, rngs=rngs
    )


def make_model(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    widths: tuple[int, ...] | None = None,
) -> nnx.Module:
    """A freshly initialised model; its parameters are a function of the seed alone.

    Args:
        name: which model.
        image_shape: height, width and channels of an image.
        num_classes: how many logits it has.
        seed: of the initialisation.
        widths: units of each hidden layer; None takes those of the registry.

    Raises:
        InputError: if the images are too small for the model.
    """
    row = model_row(name)
    if min(image_shape[:2]) < row.smallest_image:
        raise InputError(
            f"--image-size: --model {name} needs images of at least {row.smallest_image} pixels a side; "
            f"these are {image_shape[0]} x {image_shape[1]}"
        )
    given = {} if widths is None else {"widths": widths}
    return load_factory(row.make, "--model")(image_shape, num_classes, rngs=nnx.Rngs(params=seed), **given)
