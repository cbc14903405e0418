"""A function as data: the arrays that it closes over, and a program that can be compared.

JAX compares functions by identity. That is too strict for a function that was made anew, and too loose for
one that reads an attribute or a global that has changed. The trace of a function tells what it computes
now. Two traces with equal programs share a compiled one, and the arrays are among its arguments.
"""

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from nag_optax._arrays import varying_with


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Closed:
    """A function of known shapes, which may be called as the function itself. Its leaves are `arrays`."""

    arrays: list[Any]
    program: "Program" = dataclasses.field(metadata={"static": True})

    def __call__(self, *args: Any) -> Any:
        return self.program(self.arrays, args)


class Program:
    """The program of a function, apart from the arrays that it closes over; equal for equal programs."""

    def __init__(self, jaxpr: Any, example: Any, out: Any) -> None:
        # A program outlives the call; it must not keep the user's arrays alive.
        self._jaxpr = jaxpr.replace(consts=[None] * len(jaxpr.consts)).jaxpr
        self._types = list(jaxpr.in_avals)
        self._out = jax.tree.structure(out)
        self._key = (jax.tree.structure(example), self._out, _jaxpr_key(jaxpr.jaxpr))
        self._hash = hash(self._key)

    def __call__(self, arrays: list[Any], args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if list(map(jax.typeof, leaves)) != self._types:
            leaves = [jnp.asarray(leaf, t.dtype) for leaf, t in zip(leaves, self._types, strict=True)]
            leaves = varying_with(leaves, leaves)
        # A result that depends on nothing comes back as a number of Python.
        results = map(jnp.asarray, eval_jaxpr(self._jaxpr, arrays, *leaves))
        return jax.tree.unflatten(self._out, results)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self._key == other._key

    def __hash__(self) -> int:
        return self._hash


def close(fun: Callable, *example: Any) -> tuple[Closed, Any]:
    """The function as it is now, for arguments of these shapes and dtypes, and the types of its result."""
    # A new function each time, because JAX keeps the trace of one that it has seen.
    jaxpr, out = jax.make_jaxpr(lambda *args: fun(*args), return_shape=True)(*example)
    return Closed(list(jaxpr.consts), Program(jaxpr, example, out)), out


def _jaxpr_key(jaxpr: Any) -> tuple[Any, ...]:
    """The equations, with variables numbered in their order. Two keys are equal only if nothing differs."""
    numbers: dict[Any, int] = {}

    def bound(variables: Any) -> tuple[Any, ...]:
        return tuple((numbers.setdefault(v, len(numbers)), v.aval) for v in variables)

    def read(atoms: Any) -> tuple[Any, ...]:
        return tuple(
            (a.aval, np.asarray(a.val).tobytes()) if hasattr(a, "val") else numbers[a] for a in atoms
        )

    inputs = bound(jaxpr.constvars), bound(jaxpr.invars)
    equations = tuple(
        # The context holds `set_mesh`, the generator of random numbers and the like.
        (eqn.primitive, eqn.ctx, read(eqn.invars), bound(eqn.outvars), _value_key(eqn.params))
        for eqn in jaxpr.eqns
    )
    return inputs, equations, read(jaxpr.outvars)


def _value_key(value: Any) -> Any:
    """A key that can be hashed. Two values have equal keys only if JAX cannot tell them apart."""
    if hasattr(value, "eqns"):
        # Constants inside belong to a function under the user's own jit, which JAX traces once.
        return (
            weakref.ref(value) if getattr(value, "consts", ()) else _jaxpr_key(getattr(value, "jaxpr", value))
        )
    if isinstance(value, dict):
        return tuple((name, _value_key(entry)) for name, entry in sorted(value.items()))
    if isinstance(value, tuple | list):
        return type(value), tuple(map(_value_key, value))
    if isinstance(value, bool | int | float | complex):
        # 0.0 and -0.0 are equal, as 1 and True are, and NaN equals nothing.
        return type(value), repr(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).dtype, np.shape(value), np.asarray(value).tobytes()
    try:
        hash(value)
    except TypeError:
        return object()
    return type(value), value
