"""A small vision transformer.

Source: Dosovitskiy et al., *An image is worth 16x16 words*, ICLR 2021, in the form of Beyer, Zhai and
Kolesnikov, *Better plain ViT baselines for ImageNet-1k*, 2022: fixed sines as positions, the mean of the
patches at the end.
"""

import jax
import jax.numpy as jnp
from flax import nnx

_WIDTH, _HEADS = 192, 3
_SMALL = 64
"""Images of at most so many pixels a side are cut into patches of 4×4, larger ones of 16×16."""


class _Block(nnx.Module):
    """Attention, then a hidden layer; each normalised before, and added to its input."""

    def __init__(self, hidden: int, *, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(_WIDTH, rngs=rngs)
        # One matrix each: Muon orthogonalises them by themselves.
        self.query, self.key, self.value, self.out = (nnx.Linear(_WIDTH, _WIDTH, rngs=rngs) for _ in range(4))
        self.norm2 = nnx.LayerNorm(_WIDTH, rngs=rngs)
        self.up = nnx.Linear(_WIDTH, hidden, rngs=rngs)
        self.down = nnx.Linear(hidden, _WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.norm1(x)
        heads = (*y.shape[:2], _HEADS, _WIDTH // _HEADS)
        parts = (part(y).reshape(heads) for part in (self.query, self.key, self.value))
        x = x + self.out(jax.nn.dot_product_attention(*parts).reshape(y.shape))
        return x + self.down(nnx.gelu(self.up(self.norm2(x))))


class ViT(nnx.Module):
    """Patches, blocks of width 192 with 3 heads, the mean over the patches, and the head."""

    def __init__(
        self, image_shape: tuple[int, int, int], num_classes: int, *, widths: tuple[int, ...], rngs: nnx.Rngs
    ):
        height, width, channels = image_shape
        side = 4 if max(height, width) <= _SMALL else 16
        # An image that is no multiple of the side is filled up with zeros.
        self.patch = nnx.Conv(channels, _WIDTH, (side, side), (side, side), padding="SAME", rngs=rngs)
        self._depth = len(widths)
        for i, hidden in enumerate(widths):
            setattr(self, f"block{i}", _Block(hidden, rngs=rngs))
        self.norm = nnx.LayerNorm(_WIDTH, rngs=rngs)
        self.head = nnx.Linear(_WIDTH, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: nnx.Rngs | None = None) -> jax.Array:
        del train, rngs
        x = self.patch(images)
        n, height, width, _ = x.shape
        x = (x + positions(height, width, _WIDTH).astype(x.dtype)).reshape(n, height * width, _WIDTH)
        for i in range(self._depth):
            x = getattr(self, f"block{i}")(x)
        return self.head(self.norm(x).mean(1))


def positions(height: int, width: int, features: int) -> jax.Array:
    """(height, width, features): sines and cosines of the row and of the column, a quarter each."""
    rates = 1.0 / 10_000.0 ** jnp.linspace(0.0, 1.0, features // 4)
    row, column = (jnp.arange(size, dtype=jnp.float32)[:, None] * rates for size in (height, width))
    parts = [jnp.sin(row)[:, None], jnp.cos(row)[:, None], jnp.sin(column), jnp.cos(column)]
    return jnp.concatenate([jnp.broadcast_to(p, (height, width, features // 4)) for p in parts], -1)
