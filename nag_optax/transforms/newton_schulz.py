"""Newton–Schulz steps on stacks of matrices, which a mesh shares out."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from nag_optax._arrays import wide

FREE = PartitionSpec.UNCONSTRAINED
# Matrices of a stack in one pass of the loop over them, on a CPU.
_IN_ONE_PASS = 8


def newton_schulz(
    x: jax.Array,
    dtype: jnp.dtype,
    steps: jax.typing.ArrayLike,
    triples: np.ndarray | jax.Array,
    eps: jax.typing.ArrayLike,
) -> jax.Array:
    """The steps on each matrix of a stack (k, m, n), kept in `dtype`."""
    if x.shape[-2] > x.shape[-1]:
        return newton_schulz(x.mT, dtype, steps, triples, eps).mT
    sums = wide(dtype)
    table = jnp.asarray(triples)

    def product(first: jax.Array, second: jax.Array) -> jax.Array:
        return jnp.matmul(first, second, preferred_element_type=sums)

    def step(i: jax.Array, x: jax.Array) -> jax.Array:
        a, b, c = table[jnp.minimum(i, len(table) - 1)].astype(sums)
        gram = product(x, jnp.conj(x.mT)).astype(x.dtype)
        polynomial = (b * gram.astype(sums) + c * product(gram, gram)).astype(x.dtype)
        return (a * x.astype(sums) + product(polynomial, x)).astype(x.dtype)

    def together(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, step, _normalized(x, dtype, eps))

    def one_by_one(x: jax.Array) -> jax.Array:
        # All of them in one pass would take minutes to compile.
        return jax.lax.scan(lambda _, one: (None, together(one)), None, x, unroll=_IN_ONE_PASS)[1]

    # XLA's batched product is slower than single ones on a CPU, and the launches count elsewhere.
    return jax.lax.platform_dependent(x, cpu=one_by_one, default=together)


def shared_out(function: Callable[[jax.Array], jax.Array], mesh: AbstractMesh, stack: jax.Array) -> jax.Array:
    """function(stack), the stack split over all devices of the mesh, where its axes are automatic.

    What does not divide is filled up with zeros.
    """
    if mesh.size < 2 or AxisType.Manual in mesh.axis_types:
        return function(stack)
    split, whole = PartitionSpec(mesh.axis_names), NamedSharding(mesh, PartitionSpec(None, FREE, FREE))
    padding = -len(stack) % mesh.size
    # The stack is whole where it is put together and cut. Split, each part would be an exchange of its own.
    padded = jax.lax.with_sharding_constraint(jnp.pad(stack, [(0, padding), (0, 0), (0, 0)]), whole)
    done = jax.shard_map(function, mesh=mesh, in_specs=split, out_specs=split)(padded)
    return jax.lax.with_sharding_constraint(done, whole)[: len(stack)]


def _normalized(x: jax.Array, dtype: jnp.dtype, eps: jax.typing.ArrayLike) -> jax.Array:
    """X / max(‖X‖_F, eps), rounded to `dtype` at the end: a narrow one does not hold every X."""
    x = x.astype(wide(x.dtype, dtype))
    tiny = jnp.finfo(x.dtype).tiny
    # Scale the entries to about 1 first, so that their squares neither overflow nor vanish. The bounds are
    # the numbers with a reciprocal. There is no derivative, because any number here gives the same result.
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    largest = jax.lax.stop_gradient(jnp.clip(largest, tiny, 1 / tiny))
    # No division, because XLA makes one of two in a row, by a product that overflows.
    x = x * (1 / largest).astype(x.dtype)
    square = jnp.sum(jnp.square(jnp.abs(x)), axis=(-2, -1), keepdims=True)
    # At least 1, except for zeros, where the root has no derivative.
    norm = jnp.sqrt(jnp.maximum(square, 0.25))
    norm = jnp.maximum(norm, jnp.asarray(eps, norm.dtype) / largest)
    return (x * (1 / norm).astype(x.dtype)).astype(dtype)
