"""On one GPU, leaves of one shape are updated in one kernel, with the same numbers."""

# Optax types a tree as the union of all that a tree may be.
# pyright: reportArgumentType=false

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import nag_optax

SHAPES = {"a": (3, 5), "b": (3, 5), "c": (3, 5), "alone": (7,), "large": (2**18 + 1,), "too": (2**18 + 1,)}


def stepped(optimizer, grads):
    """Two steps, operation by operation: a compiled program contracts products as it likes."""
    params = jax.tree.map(jnp.ones_like, grads)
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    return optimizer.update(updates, state, params)


@pytest.fixture
def one_gpu(monkeypatch):
    """What Python sees there; the program is compiled for the device at hand."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)


@pytest.mark.parametrize("make", [nag_optax.nag, nag_optax.nadam], ids=lambda make: make.__name__)
def test_the_numbers_are_the_same(make, request):
    grads: dict[str, Any] = {
        name: jax.random.normal(jax.random.key(i), shape) for i, (name, shape) in enumerate(SHAPES.items())
    }
    grads |= {"half": jnp.full((3, 5), 0.1, jnp.bfloat16), "halves": jnp.full((3, 5), 3.0, jnp.bfloat16)}
    grads |= {"complex": jnp.full((3, 5), 2 + 1j), "more": jnp.full((3, 5), 3 + 1j), "none": None}
    plain = stepped(make(0.1), grads)
    request.getfixturevalue("one_gpu")
    joined = stepped(make(0.1), grads)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(joined), strict=True):
        assert one.dtype == other.dtype and jnp.array_equal(one, other)


@pytest.mark.usefixtures("one_gpu")
def test_small_leaves_of_one_shape_read_one_array():
    grads = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in SHAPES.items()}
    optimizer = nag_optax.nag(0.1)
    program = jax.make_jaxpr(optimizer.update)(grads, jax.eval_shape(optimizer.init, grads))
    barriers = [e.outvars[0] for e in program.eqns if e.primitive.name == "optimization_barrier"]
    (shared,) = [array for array in barriers if array.aval.shape]
    assert shared.aval.shape == SHAPES["a"]
    assert sum(shared in e.invars for e in program.eqns) == 3


@pytest.mark.skipif(
    jax.default_backend() != "gpu" or jax.device_count() > 1,
    reason="needs exactly one GPU: elsewhere the leaves are not joined",
)
def test_they_are_one_kernel():
    grads = {str(i): jnp.ones(1000) for i in range(16)}
    optimizer = nag_optax.nag(0.1)
    program = jax.jit(optimizer.update).lower(grads, optimizer.init(grads)).compile()
    _, entry = str(program.as_text()).split("ENTRY")
    assert entry.count(" fusion(") <= 3
