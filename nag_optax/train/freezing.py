"""Frozen parameters: which ones a pattern names, and an optimizer that neither moves nor remembers them."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import optax
from flax import nnx

from nag_optax.train.errors import InputError


def frozen_mask(patterns: Sequence[str], params: Any) -> Any:
    """True for each parameter that a pattern names, by its path or by that of a module above it."""
    paths = [path for path, _ in _named(params)]
    for pattern in patterns:
        if not any(_names(pattern, path) for path in paths):
            raise InputError(
                f"--freeze {pattern}: matches no parameter; the parameters are {', '.join(paths)}"
            )
    frozen = [any(_names(pattern, path) for pattern in patterns) for path in paths]
    if all(frozen) and patterns:
        raise InputError(
            f"--freeze {','.join(patterns)}: leaves nothing to train; the parameters are {', '.join(paths)}"
        )
    return jax.tree.structure(params).unflatten(frozen)


def freeze(
    optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformationExtraArgs:
    """The optimizer for the parameters that no pattern names. The others stay, and have no state."""

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda f: "frozen" if f else "trained", frozen_mask(patterns, params))

    return optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)


def fix_statistics(model: nnx.Module, mask: Any) -> None:
    """Makes a fixed function of each batch normalisation with no parameter to train.

    It normalises with the running statistics while training too, and these stay."""
    for name, frozen in mask.items():
        module = getattr(model, name)
        if isinstance(module, nnx.BatchNorm):
            module.use_running_average = module.use_running_average or all(jax.tree.leaves(frozen))
        elif isinstance(module, nnx.Module):
            fix_statistics(module, frozen)


def _names(pattern: str, path: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*")


def _named(params: Any) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]
