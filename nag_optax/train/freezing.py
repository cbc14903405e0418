"""Frozen parameters: which ones a pattern names, and an optimizer that neither moves nor remembers them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import reduce
from typing import Any

import jax
import optax
from flax import nnx

from nag_optax._arrays import named
from nag_optax.train.errors import InputError


def frozen_mask(patterns: Sequence[str], params: Any) -> Any:
    """True for each parameter that a pattern names, by its path or by that of a module above it."""
    paths = list(named(params))
    for pattern in patterns:
        if not any(_names(pattern, path) for path in paths):
            raise InputError(
                f"--freeze {pattern}: matches no parameter; the parameters are {', '.join(paths)}"
            )
    frozen = [any(_names(pattern, path) for pattern in patterns) for path in paths]
    return jax.tree.structure(params).unflatten(frozen)


def freeze(
    optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
    """The optimizer for the parameters that no pattern names. The others stay, and have no state."""

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda f: "frozen" if f else "trained", frozen_mask(patterns, params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


class _Fixed(nnx.BatchNorm):
    """A batch normalisation that takes the running statistics whatever it is told."""

    def __call__(self, x: Any, use_running_average: bool | None = None, **options: Any) -> Any:
        del use_running_average
        return super().__call__(x, True, **options)


def fix_statistics(model: nnx.Module, mask: Any) -> None:
    """Makes a fixed function of each batch normalisation whose parameters are all frozen.

    It normalises with the running statistics while training too, and these stay."""
    for path, module in nnx.iter_graph(model):
        if isinstance(module, nnx.BatchNorm):
            frozen = jax.tree.leaves(reduce(lambda tree, key: tree.get(key, {}), path, mask))
            if frozen and all(frozen):
                module.use_running_average, module.__class__ = True, _Fixed


def _names(pattern: str, path: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")
