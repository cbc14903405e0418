"""One transformation for some leaves, another for the rest."""

from typing import Any, NamedTuple

import jax
import optax

from nag_optax._arguments import check_flags, check_mask
from nag_optax._arrays import misfit
from nag_optax.transforms.descent import Mask


class PartitionState(NamedTuple):
    """State of `partition`.

    Attributes:
        chosen: state of the transformation of the chosen leaves.
        others: state of the other one.
    """

    chosen: Any
    others: Any


def partition(
    choose: Mask,
    chosen: optax.GradientTransformation,
    others: optax.GradientTransformation,
    name: str = "choose",
) -> optax.GradientTransformationExtraArgs:
    """`chosen` where the mask is True, `others` elsewhere; neither keeps state for the other's leaves.

    As `optax.partition`, but the mask is asked about the parameters, where updates may hold None.
    `name` is what the mask is called in errors.
    """
    check_mask(name, choose)
    chosen, others = optax.with_extra_args_support(chosen), optax.with_extra_args_support(others)

    def flags_of(params: optax.Params) -> Any:
        flags = choose(params) if callable(choose) else choose
        check_flags(name, flags)
        try:
            return jax.tree.map(lambda flag, p: jax.tree.map(lambda _: bool(flag), p), flags, params)
        except ValueError:
            raise ValueError(
                f"{name} must be a tree of booleans that the parameters extend; {misfit(flags, params)}"
            ) from None

    def split(params: optax.Params, *trees: Any) -> Any:
        """((the chosen leaves, the others) of each tree, and a function that joins such a pair again)."""
        # Nodes without a leaf, such as the placeholder of optax.tree.map_params, need no choice.
        if not jax.tree.leaves(params):
            return [(tree, tree) for tree in trees], lambda first, second: first
        flags, treedef = jax.tree.flatten(flags_of(params))

        def leaves_of(tree: Any) -> list[Any]:
            try:
                return treedef.flatten_up_to(tree)
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"the updates and the parameters have different trees: {error}") from None

        def half(tree: Any, which: bool) -> Any:
            pairs = zip(flags, leaves_of(tree), strict=True)
            return treedef.unflatten([x if flag is which else optax.MaskedNode() for flag, x in pairs])

        def merge(first: Any, second: Any) -> Any:
            triples = zip(flags, leaves_of(first), leaves_of(second), strict=True)
            return treedef.unflatten([a if flag else b for flag, a, b in triples])

        return [(half(tree, True), half(tree, False)) for tree in trees], merge

    def init_fn(params: optax.Params) -> PartitionState:
        ((first, second),), _ = split(params, params)
        return PartitionState(chosen.init(first), others.init(second))

    def update_fn(updates, state, params=None, **extra_args):
        given = updates if params is None else params
        ((first, second), (p, q)), merge = split(given, updates, given)
        if params is None:
            p = q = None
        first, chosen_state = chosen.update(first, state.chosen, p, **extra_args)
        second, others_state = others.update(second, state.others, q, **extra_args)
        return merge(first, second), PartitionState(chosen_state, others_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
