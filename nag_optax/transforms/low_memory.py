"""`low_memory`: the state of any optimizer in one byte a number, or in two."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nag_optax._arguments import check_number
from nag_optax.acceleration.around import checked_inner
from nag_optax.acceleration.evaluation import eval_params
from nag_optax.acceleration.iterate import IterateState, StoredIterate
from nag_optax.transforms import codes
from nag_optax.transforms.stochastic_rounding import random_bits, to_bfloat16, uniform


class Format(NamedTuple):
    """A packed array: its leaf of the inner state, its dtype before, how many numbers share a scale.

    bfloat16 has no scales, and a block size of 0. So a state of one kind has another structure than one of
    the other, and no library restores one as the other.
    """

    leaf: int
    dtype: Any
    block_size: int

    @property
    def key(self) -> str:
        return f"{self.leaf}-{self.dtype}-{self.block_size}"

    @classmethod
    def of(cls, key: str) -> "Format":
        leaf, dtype, block_size = key.split("-")
        return cls(int(leaf), jnp.dtype(dtype), int(block_size))


class LowMemoryState(NamedTuple):
    """State of `low_memory`.

    Attributes:
        step: steps taken, int32.
        inner_state: the state of the inner optimizer, in place of its large arrays their codes: int8 or
            bfloat16, of the array's shape.
        packing: a dictionary with the scales of each packed array, float32, the largest modulus of each
            block; None for bfloat16. The key has the leaf of the array, its dtype before and the size of
            its blocks, 0 for bfloat16, as in "3-float32-128": in a key they are part of the type, and
            every library that saves a tree saves them. A scalar False where nothing is packed: as a leaf,
            it lets `optax.tree.map_params` find any dictionary in its place.
    """

    step: jax.Array
    inner_state: Any
    packing: Any

    def eval_params(self, params: Any, *, learning_rate: jax.typing.ArrayLike | None = None) -> Any:
        """The answer of the inner state."""
        return eval_params(unpack(self), params, learning_rate=learning_rate)


def low_memory(
    inner: optax.GradientTransformation,
    dtype: jax.typing.DTypeLike = jnp.int8,
    *,
    block_size: int = 128,
    min_size: int = 4096,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Keeps the state of any optimizer in one byte a number, or in two.

    ```
    one byte    s = max|x| over a block,  q = ⌊127·c(x/s) + u⌋,  c(z) = 2z/(1 + |z|)
                x ≈ s·z/(2 − |z|),  z = q/127,  u uniform in [0, 1)
    two bytes   bfloat16, rounded up or down at random
    ```

    Each step unpacks the state to float32, takes the inner step, and packs the state again. Both
    roundings are right on average, so that slow averages neither stall nor drift. In a block without
    negative numbers a positive one never becomes 0. It may be an average of squares, and the optimizer
    divides by its root.

    Real floating arrays of at least `min_size` numbers are packed. The iterates of `fista` and `snoo` are
    parameters, and stay as they are. Do not put other optimizers that keep parameters in their state
    (`optax.contrib.schedule_free`, `optax.lookahead`) into one byte.

    Args:
        inner: the optimizer, `optax.GradientTransformation`.
        dtype: `jnp.int8` for 1 + 4/block_size bytes a number, or `jnp.bfloat16` for two.
        block_size: how many numbers share a scale, an integer in [1, 65536]. On a mesh it becomes
            smaller, until no block lies across two devices. For that, `init` must be given arrays on the
            mesh, or the mesh's axes must be explicit.
        min_size: an integer of at least 1. Arrays of fewer numbers are not compressed. If you use
            `optax.inject_hyperparams`, name dtype, block_size and min_size in `static_args`.
        seed: an integer in [0, 2³²), for the rounding.

    Returns:
        A transformation with the inner one's updates. `eval_params` reads its state. In its state
        `optax.tree.map_params` finds the codes, which have the shapes of the parameters: for shardings and
        zeros, not for arithmetic. It hands all scales at once to `transform_non_params`.

    Raises:
        ValueError: if a number is out of range, or the dtype is neither of the two.
        TypeError: if `inner` is no transformation, or a number is no integer.

    Example:
        >>> import jax, jax.numpy as jnp, optax, nag_optax
        >>> params = jnp.ones((128, 64))
        >>> optimizer = nag_optax.low_memory(optax.adamw(0.1))
        >>> state = optimizer.init(params)
        >>> print(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / params.size)  # of 8
        2.0634765625
        >>> updates, state = optimizer.update(params, state, params)

    Source: blockwise codes after Dettmers, Lewis, Shleifer, Zettlemoyer, *8-bit optimizers via block-wise
    quantization*, ICLR 2022.
    """
    inner = checked_inner(inner)
    try:
        dtype = jnp.result_type(dtype)  # optax.inject_hyperparams makes an array of it.
    except TypeError:
        raise ValueError(f"dtype must be int8 or bfloat16; got {dtype!r}") from None
    if dtype not in (jnp.int8, jnp.bfloat16):
        raise ValueError(f"dtype must be int8 or bfloat16; got {dtype}")
    for name, number, below in (("block_size", block_size, 65537), ("min_size", min_size, 2**31)):
        check_number(name, number, minimum=1, below=below, integer=True)
        if isinstance(number, np.ndarray | jax.Array):
            raise TypeError(
                f"{name} must be an integer of Python, because it decides about shapes; got an array: under "
                "optax.inject_hyperparams, name it in static_args"
            )
    check_number("seed", seed, minimum=0, below=2**32, integer=True)

    def pack(state: Any, step: jax.Array, before: Any = None) -> LowMemoryState:
        """The packed state, with the block sizes of the state before."""
        leaves, treedef = jax.tree.flatten(state, is_leaf=_is_iterate)
        known = {form.leaf: form.block_size for form in map(Format.of, _packed(before))}
        packing = {}
        for k, x in enumerate(leaves):
            if not _is_large(x, min_size):
                continue
            bits, wide = random_bits(x.shape, step, k, seed), x.astype(jnp.float32)
            if dtype == jnp.bfloat16:
                leaves[k], scales, size = to_bfloat16(wide, bits), None, 0
            else:
                size = known[k] if known else codes.block_size_within(x, block_size)
                leaves[k], scales = codes.encode(wide, uniform(bits), size)
            packing[Format(k, x.dtype, size).key] = scales
        return LowMemoryState(step, treedef.unflatten(leaves), packing or jnp.zeros([], bool))

    def init_fn(params: optax.Params) -> LowMemoryState:
        return pack(jax.tree.map(_unfolded, inner.init(params)), jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        updates, inner_state = inner.update(updates, unpack(state), params, **extra_args)
        step = jnp.asarray(optax.safe_increment(state.step))
        return updates, pack(inner_state, step, state.packing)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def unpack(state: LowMemoryState) -> Any:
    """The state of the inner optimizer, each array in its own dtype."""
    leaves, treedef = jax.tree.flatten(state.inner_state, is_leaf=_is_iterate)
    for key, scales in _packed(state.packing).items():
        form = Format.of(key)
        x = leaves[form.leaf]
        if x.dtype not in (jnp.int8, jnp.bfloat16):
            raise TypeError(f"a packed array must stay int8 or bfloat16; opt_state has {x.dtype}")
        if x.dtype == jnp.int8:
            # nnx wraps every array of the state; the one leaf of the wrapper is the array.
            (own,) = jax.tree.leaves(scales)
            x = codes.decode(x, own, form.block_size)
        leaves[form.leaf] = x.astype(form.dtype)
    return treedef.unflatten(leaves)


def _packed(packing: Any) -> dict[str, Any]:
    return packing if isinstance(packing, dict) else {}


def _unfolded(x: Any) -> Any:
    # Without this XLA would pack the zeros of a new state while it compiles, which takes minutes.
    return jax.lax.optimization_barrier(x) if isinstance(x, jax.Array) else x


def _is_iterate(node: Any) -> bool:
    return isinstance(node, IterateState | StoredIterate)


def _is_large(x: Any, min_size: int) -> bool:
    # A leaf may be a Python number.
    is_real = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return is_real and x.size >= min_size
