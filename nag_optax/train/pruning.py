"""Structured pruning: a group lasso on hidden units, and the smaller model without those that became zero.

A unit is all that makes its activation: a column of the kernel, and its bias or the scale and bias of its
batch normalisation. Where these are zero the activation is exactly zero, whatever the image. So the unit
can go, with what the next layer takes from it, and the logits stay but for the order of summation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nag_optax
from nag_optax._arrays import named
from nag_optax.train.rows import HiddenLayer

Layers = tuple[HiddenLayer, ...]


def units_prox(layers: Layers, strength: float) -> Any:
    """The prox of strength·Σ‖unit‖₂ over the hidden units of a model's parameters.

    A layer with a masked parameter is frozen, and the prox does not change it.
    """

    def masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    def prox(params: dict[str, Any], step_size: jax.typing.ArrayLike) -> dict[str, Any]:
        arrays = named(params, is_leaf=masked)
        for layer in layers:
            own = arrays_of(layer, arrays)
            if not any(map(masked, own.values())):
                axis = {name: tuple(range(p.ndim - 1)) for name, p in own.items()}
                arrays |= nag_optax.prox.group_l2(strength, axis, joint=True)(own, step_size)
        return jax.tree.structure(params, is_leaf=masked).unflatten(arrays.values())

    return prox


def zero_units(layers: Layers, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """For each hidden layer, which of its units are exactly zero."""
    arrays = named(params)
    return {
        layer.kernel: np.logical_and.reduce(
            [np.asarray(jnp.all(p == 0, tuple(range(p.ndim - 1)))) for p in arrays_of(layer, arrays).values()]
        )
        for layer in layers
    }


def without_units(
    layers: Layers, params: Any, model_state: Any, remove: dict[str, np.ndarray]
) -> tuple[Any, Any, tuple[int, ...]]:
    """Parameters and batch statistics without the units marked, and the widths that the layers then have.

    A layer keeps one unit at least.
    """
    trees = [named(jax.tree.map(np.asarray, tree)) for tree in (params, model_state)]
    widths = []
    for layer in layers:
        marked = remove[layer.kernel]
        keep = np.array([0]) if marked.all() else np.flatnonzero(~marked)
        widths.append(len(keep))
        for arrays in trees:
            arrays |= {name: p[..., keep] for name, p in arrays_of(layer, arrays).items()}
        after = f"{layer.next}/kernel"
        trees[0][after] = _inputs(trees[0][after], len(marked), keep)
    params, model_state = (
        jax.tree.structure(tree).unflatten(arrays.values())
        for tree, arrays in zip((params, model_state), trees, strict=True)
    )
    return params, model_state, tuple(widths)


def arrays_of(layer: HiddenLayer, arrays: dict[str, Any]) -> dict[str, Any]:
    """Those of the named arrays that make the layer's units. Units are the last axis of each."""
    modules = tuple(f"{module}/" for module in layer.modules)
    return {name: p for name, p in arrays.items() if name.startswith(modules)}


def _inputs(kernel: np.ndarray, units: int, keep: np.ndarray) -> np.ndarray:
    """A kernel without its inputs from other units. A flattened image has one input for each pixel."""
    *window, inputs, outputs = kernel.shape
    kernel = kernel.reshape(*window, inputs // units, units, outputs)[..., keep, :]
    return kernel.reshape(*window, -1, outputs)
