"""Residual networks.

Source: He, Zhang, Ren, Sun, *Deep residual learning for image recognition*, CVPR 2016. The scale of the
last normalisation of each block begins at zero, so that a block begins as the identity (Goyal et al.,
*Accurate, large minibatch SGD*, 2017). A bottleneck halves the image in its 3×3 convolution, as in
torchvision.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from nag_optax.layers.convolution import convolution
from nag_optax.layers.normalisation import normalised

_SMALL = 64
"""Images of at most so many pixels a side keep their size in the stem."""


class _Block(nnx.Module):
    """Two 3×3 convolutions, or a bottleneck: 1×1, 3×3 and 1×1; and the shortcut.

    Args:
        channels: of the input.
        hidden: channels of each convolution but the last.
        units: channels of the output.
        stride: 2 halves the image.
        rngs: of the initialisation.
    """

    def __init__(self, channels: int, hidden: list[int], units: int, stride: int, *, rngs: nnx.Rngs):
        bottleneck = len(hidden) == 2
        sizes, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        self._count = len(sizes)
        inputs = channels
        for i, (size, step, outputs) in enumerate(zip(sizes, strides, [*hidden, units], strict=True), 1):
            last = i == self._count
            scale = nnx.initializers.zeros_init() if last else nnx.initializers.ones_init()
            setattr(self, f"conv{i}", convolution(inputs, outputs, size, step, rngs=rngs))
            setattr(self, f"norm{i}", nnx.BatchNorm(outputs, momentum=0.9, scale_init=scale, rngs=rngs))
            inputs = outputs
        self._projects = stride > 1 or channels != units
        if self._projects:
            self.shortcut_conv = convolution(channels, units, 1, stride, rngs=rngs)
            self.shortcut_norm = nnx.BatchNorm(units, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        shortcut = normalised(self.shortcut_norm, self.shortcut_conv(x), train) if self._projects else x
        for i in range(1, self._count + 1):
            x = normalised(getattr(self, f"norm{i}"), getattr(self, f"conv{i}")(x), train)
            x = nnx.relu(x + shortcut if i == self._count else x)
        return x


class ResNet(nnx.Module):
    """A stem, four stages of blocks, the mean over the pixels, and the head.

    Args:
        image_shape: height, width and channels of an image.
        num_classes: how many logits it has.
        blocks: of each stage; all but the first stage halve the image and double the channels, from 64.
        bottleneck: whether a block has three convolutions, and four times the channels behind it.
        widths: channels of each convolution but the last, block by block.
        rngs: of the initialisation.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        *,
        blocks: tuple[int, ...],
        bottleneck: bool,
        widths: tuple[int, ...],
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        self._small = max(height, width) <= _SMALL
        size, stride = (3, 1) if self._small else (7, 2)
        self.stem_conv = convolution(channels, 64, size, stride, rngs=rngs)
        self.stem_norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        hidden, channels = iter(widths), 64
        self._blocks = tuple(f"stage{i}_block{j}" for i, count in enumerate(blocks) for j in range(count))
        for name in self._blocks:
            stage = int(name[len("stage")])
            units = 64 * 2**stage * (4 if bottleneck else 1)
            inner = [next(hidden) for _ in range(2 if bottleneck else 1)]
            stride = 2 if stage and name.endswith("block0") else 1
            setattr(self, name, _Block(channels, inner, units, stride, rngs=rngs))
            channels = units
        self.head = nnx.Linear(channels, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        del rngs
        x = self.stem(images, train)
        for name in self._blocks:
            x = getattr(self, name)(x, train)
        return self.head(x.mean((1, 2)))

    def stem(self, images: jax.Array, train: bool) -> jax.Array:
        """The input of the first block; a large image has a quarter of its side left."""
        x = nnx.relu(normalised(self.stem_norm, self.stem_conv(images), train))
        if self._small:
            return x
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))  # No less than zero is in x.
        return nnx.max_pool(x, (3, 3), (2, 2))


def resnet18(*args: Any, **kwargs: Any) -> ResNet:
    """ResNet-18."""
    return ResNet(*args, blocks=(2, 2, 2, 2), bottleneck=False, **kwargs)


def resnet50(*args: Any, **kwargs: Any) -> ResNet:
    """ResNet-50."""
    return ResNet(*args, blocks=(3, 4, 6, 3), bottleneck=True, **kwargs)
