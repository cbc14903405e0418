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
from nag_optax.train.rows import HiddenLayer

Layers = tuple[HiddenLayer, ...]


def units_prox(layers: Layers, strength: float) -> Any:
    """The prox of strength·Σ‖unit‖₂ over the hidden units of a model's parameters.

    A layer with a masked parameter is frozen, and the prox does not change it.
    """

    def prox(params: dict[str, Any], step_size: jax.typing.ArrayLike) -> dict[str, Any]:
        params = jax.tree.map(lambda p: p, params)  # Its dicts are written to.
        for layer in layers:
            own = {path: module_at(params, path) for path in layer.modules}
            leaves = jax.tree.leaves(own, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
            if any(isinstance(leaf, optax.MaskedNode) for leaf in leaves):
                continue
            axis = jax.tree.map(lambda p: tuple(range(p.ndim - 1)), own)
            shrunk = nag_optax.prox.group_l2(strength, axis, joint=True)(own, step_size)
            for path, module in shrunk.items():
                _put(params, path, module)
        return params

    return prox


def zero_units(layers: Layers, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """For each hidden layer, which of its units are exactly zero."""
    return {
        layer.kernel: np.logical_and.reduce(
            [
                np.asarray(jnp.all(p == 0, tuple(range(p.ndim - 1))))
                for p in jax.tree.leaves([module_at(params, path) for path in layer.modules])
            ]
        )
        for layer in layers
    }


def without_units(
    layers: Layers, params: Any, model_state: Any, remove: dict[str, np.ndarray]
) -> tuple[Any, Any, tuple[int, ...]]:
    """Parameters and batch statistics without the units marked, and the widths that the layers then have.

    A layer keeps one unit at least.
    """
    params, model_state = (jax.tree.map(np.asarray, tree) for tree in (params, model_state))
    widths = []
    for layer in layers:
        marked = remove[layer.kernel]
        keep = np.array([0]) if marked.all() else np.flatnonzero(~marked)
        widths.append(len(keep))
        for path in layer.modules:
            for tree in (params, model_state):
                # Units are the last axis of everything that a layer has.
                if module := module_at(tree, path):
                    _put(tree, path, jax.tree.map(lambda p, keep=keep: p[..., keep], module))
        after = module_at(params, layer.next)
        after["kernel"] = _inputs(after["kernel"], len(marked), keep)
    return params, model_state, tuple(widths)


def _inputs(kernel: np.ndarray, units: int, keep: np.ndarray) -> np.ndarray:
    """A kernel without its inputs from other units. A flattened image has one input for each pixel."""
    *window, inputs, outputs = kernel.shape
    kernel = kernel.reshape(*window, inputs // units, units, outputs)[..., keep, :]
    return kernel.reshape(*window, -1, outputs)


def module_at(tree: Any, path: str) -> Any:
    """The part of a tree of modules at a path such as `block0/conv1`, or {} where there is none."""
    for name in path.split("/"):
        tree = tree.get(_key(name), {})
    return tree


def _put(tree: Any, path: str, module: Any) -> None:
    above, _, name = path.rpartition("/")
    (module_at(tree, above) if above else tree)[_key(name)] = module


def _key(name: str) -> str | int:
    """The key of a module: in a list it is a number."""
    return int(name) if name.isdecimal() else name
