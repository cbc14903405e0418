"""A function as data: which functions are one program, and what such a program holds."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from nag_optax.solver import program
from nag_optax.solver.closed import Program, close

X = jnp.arange(3.0)


def traced(fun: Callable, *example: Any) -> Program:
    return close(fun, *(example or (X,)))[0].program


def scaled(y: jax.Array) -> Callable:
    return lambda x: jax.lax.scan(lambda carry, row: (carry * row, None), jnp.sum(x), y)[0]


def cube_with(factor: float) -> Callable:
    """Functions of one value and several derivatives."""

    @jax.custom_jvp
    def cube(x: jax.Array) -> jax.Array:
        return x**3

    cube.defjvp(lambda primals, tangents: (cube(*primals), factor * primals[0] ** 2 * tangents[0]))
    return cube


def test_functions_that_differ_in_arrays_are_one_program():
    (one, _), (other, _) = (close(scaled(jnp.full(4, value)), X) for value in (2.0, 3.0))
    assert one.program == other.program and hash(one.program) == hash(other.program)
    assert [len(one.arrays), len(other.arrays)] == [1, 1]
    np.testing.assert_array_equal([one(X), other(X)], [48.0, 243.0])
    # The function is not asked again.
    np.testing.assert_array_equal(jax.grad(lambda closed: closed(X))(one).arrays[0], 24.0)


INSIDE = {name: jax.jit(lambda x, y=y: jnp.sum(x * y)) for name, y in (("ones", X + 1), ("twos", X + 2))}
DIFFERENT = {
    "sign of a zero": (lambda x: jnp.maximum(x, 0.0), lambda x: jnp.maximum(x, -0.0)),
    "last bit": (lambda x: x * np.float32(1.1), lambda x: x * np.nextafter(np.float32(1.1), np.float32(2))),
    "a scalar array": (lambda x: x * jnp.float32(2), lambda x: x * jnp.float32(3)),
    "exponent": (lambda x: x**2, lambda x: x**3),
    "operand": (lambda x: x - jnp.sum(x), lambda x: jnp.sum(x) - x),
    "inside a loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c + 1.0, x),
        lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c + 2.0, x),
    ),
    "inside a branch": (
        lambda x: jax.lax.cond(x[0] > 0, lambda: x, lambda: x + 1),
        lambda x: jax.lax.cond(x[0] > 0, lambda: x + 1, lambda: x),
    ),
    "data of a compiled function": (INSIDE["ones"], INSIDE["twos"]),
    "derivative": (cube_with(3.0), cube_with(4.0)),
    "a function of the host": (
        lambda x: jax.pure_callback(np.sin, x, x),
        lambda x: jax.pure_callback(np.cos, x, x),
    ),
    "names of the result": (lambda x: {"a": x}, lambda x: {"b": x}),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_functions_that_compute_something_else_are_not(name: str):
    one, other = DIFFERENT[name]
    assert traced(one) != traced(other)
    # Of a derivative rule no trace shows what it does, so that it equals none.
    assert (traced(one) == traced(one)) == (name != "derivative")


def test_a_program_is_that_of_its_types_and_of_the_mesh():
    double = lambda x: 2 * x  # noqa: E731
    assert traced(double, X) != traced(double, X[:2])
    assert traced(double, X) != traced(double, X.astype(jnp.bfloat16))
    alone = traced(jnp.sin)
    with jax.set_mesh(Mesh(np.array(jax.devices()[:2]), ("data",))):
        assert traced(jnp.sin) != alone


def test_a_program_holds_no_array_of_the_user():
    data = jnp.ones(4)
    held, kept = weakref.ref(data), traced(scaled(data))
    del data
    gc.collect()
    assert held() is None and kept == traced(scaled(jnp.zeros(4)))


def test_programs_are_kept_up_to_a_limit_and_if_they_can_be_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(program, "_CAPACITY", 2)
    monkeypatch.setattr(program, "_programs", type(program._programs)())
    options = program.Options(None, None, False, None)

    def found(fun: Callable) -> Any:
        structure = jax.tree.structure(close(fun, X)[0])
        return program.program(structure, options, lambda: jax.tree.structure(close(fun, X)[0]))

    sine, cosine = found(jnp.sin), found(jnp.cos)
    assert found(jnp.sin) is sine
    found(jnp.tan)
    assert found(jnp.sin) is sine and len(program._programs) == 2
    assert found(jnp.cos) is not cosine
    before = list(program._programs)
    found(cube_with(3.0))
    assert list(program._programs) == before
