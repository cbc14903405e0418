"""A prox of your own, made of a function of one array."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nag_optax.prox.base import Leaf, Params, Prox, Strength, leaves_of, narrowed, spread, total


def leafwise(
    point: Callable[..., jax.Array] | None = None,
    *,
    penalty: Callable[..., jax.Array] | None = None,
    real: bool = False,
    exact: bool = False,
) -> Any:
    """Makes a prox for trees of a function of one array. A decorator, with or without arguments.

    ```
    g(z) = Σ penalty(zₗ)        prox(p)ₗ = point(pₗ, s)        over the leaves ℓ
    ```

    Args:
        point: `point(p, step_size, *strengths) -> z`, for one array p, in its shape and dtype. p is at
            least float32. The step size, a scalar, and the strengths, each of the shape of p, have
            the real dtype of p.
        penalty: `penalty(z, *strengths) -> g(z)`, a scalar; or a boolean, whether z is in the set. None
            where it is not known; the prox then has no `value`.
        real: whether complex parameters are refused.
        exact: for a point that only chooses among numbers, as clipping does. Nothing is widened
            then, and the strengths are rounded to the dtype of p.

    Returns:
        A function of the strengths that returns a `Prox`. A strength is a number, an array that
        broadcasts to the parameter, or a tree of these that is a prefix of the parameters; it may be
        traced. Its name in messages is that in the signature of `point`.

    Example:
        >>> import jax.numpy as jnp, nag_optax
        >>> @nag_optax.prox.leafwise(penalty=lambda z, strength: 0.5 * jnp.sum(strength * z**2))
        ... def ridge(p, step_size, strength):
        ...     return p / (1 + step_size * strength)
        >>> prox = ridge({"w": 1.0, "b": 0.0})
        >>> params = {"w": jnp.array([2.0, -4.0]), "b": jnp.array(1.0)}
        >>> prox(params, 1.0)
        {'b': Array(1., dtype=float32), 'w': Array([ 1., -2.], dtype=float32)}
        >>> print(prox.value(params))
        10.0

    Source: Parikh and Boyd, *Proximal algorithms*, 2014, section 2.1.
    """
    if point is None:
        return functools.partial(leafwise, penalty=penalty, real=real, exact=exact)
    signature = inspect.signature(point)
    names = list(signature.parameters)[2:]
    operator = point.__name__.lstrip("_")

    def rows(params: Params, strengths: tuple[Strength, ...]) -> tuple[list[Leaf], Any, list[Any]]:
        """The leaves, their tree, and for each leaf its strengths."""
        leaves, treedef = leaves_of(params, operator, real=real, exact=exact)
        each = [spread(name, s, params, leaves) for name, s in zip(names, strengths, strict=True)]
        return leaves, treedef, [[arrays[i] for arrays in each] for i in range(len(leaves))]

    # Made once, so that operators that differ in strength alone have one structure.
    @functools.wraps(point)
    def solve(params: Params, step_size: jax.typing.ArrayLike, *strengths: Strength) -> Params:
        leaves, treedef, own = rows(params, strengths)
        return narrowed(
            treedef,
            leaves,
            [
                point(leaf.array, jnp.asarray(step_size, leaf.real_dtype), *s)
                for leaf, s in zip(leaves, own, strict=True)
            ],
        )

    def evaluate(params: Params, *strengths: Strength) -> jax.Array:
        assert penalty is not None
        leaves, _, own = rows(params, strengths)
        values = [jnp.asarray(penalty(leaf.array, *s)) for leaf, s in zip(leaves, own, strict=True)]
        return total([jnp.where(v, 0.0, jnp.inf) if v.dtype == bool else v for v in values])

    known = None if penalty is None else functools.wraps(penalty)(evaluate)

    def make(*strengths: Strength, **named: Strength) -> Prox:
        bound = signature.bind(None, None, *strengths, **named)
        bound.apply_defaults()
        return Prox(operator, solve, known, bound.args[2:])

    make.__name__, make.__doc__ = point.__name__, point.__doc__
    return make
