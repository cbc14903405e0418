"""The optimizer of a run, as one Optax chain: its wrappers, and the factories that the registry names."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import nag_optax
from nag_optax.train.errors import InputError, reason
from nag_optax.train.freezing import freeze
from nag_optax.train.pruning import units_prox
from nag_optax.train.registry import all_options, optimizer_row
from nag_optax.train.rows import Model, Optimizer, check_call, load_factory
from nag_optax.train.spec import Spec

EVERY = 16
"""The gradient's norm is measured every so many steps. At each step it would cost a small model 4 %."""


class GradientNormState(NamedTuple):
    """Steps so far, int32, and the mean norm of this epoch, float32."""

    step: jax.Array
    mean: jax.Array


def with_gradient_norm(steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Changes nothing; its state holds the mean over an epoch of the gradients' global norm.

    The mean is over steps 0, 16, 32, … of the epoch. Frozen parameters, whose gradients nothing else needs,
    are left out, because this is a part of the chain.
    """

    def init_fn(params: optax.Params) -> GradientNormState:
        del params
        return GradientNormState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        step = state.step % steps_per_epoch

        def look() -> jax.Array:
            # The first look, of weight 1, begins the mean anew.
            weight = 1 / (step // EVERY + 1).astype(jnp.float32)
            return state.mean + weight * (optax.tree.norm(optax.tree.cast(updates, jnp.float32)) - state.mean)

        mean = jax.lax.cond(step % EVERY == 0, look, lambda: state.mean)
        return updates, GradientNormState(state.step + 1, mean)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def gradient_norm(opt_state: Any) -> float:
    """The mean that a state of `with_gradient_norm` inside this one holds."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, GradientNormState))
    return next(float(node.mean) for node in nodes if isinstance(node, GradientNormState))


def in_float32(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """The optimizer with gradients, parameters and its own state in float32, whatever it is given."""

    def init_fn(params: optax.Params) -> optax.OptState:
        return inner.init(optax.tree.cast(params, jnp.float32))

    def update_fn(updates, state, params: Any = None, **extra_args):
        wide = optax.tree.cast(params, jnp.float32)
        return inner.update(optax.tree.cast(updates, jnp.float32), state, wide, **extra_args)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class AverageState(NamedTuple):
    """Steps so far, int32; the inner optimizer's state; the average, float32."""

    step: jax.Array
    inner_state: Any
    average: Any

    def eval_params(self, params: Any, *, learning_rate: jax.typing.ArrayLike | None = None) -> Any:
        """The average, in place of the inner optimizer's iterate."""
        del learning_rate
        return jax.tree.map(lambda a, p: a.astype(p.dtype), self.average, params)


def averaged(
    inner: optax.GradientTransformationExtraArgs, decay: float
) -> optax.GradientTransformationExtraArgs:
    """The optimizer's own steps, and an exponential moving average of the parameters for `eval_params`.

    ```
    a ← a + (1 − D)/(1 − Dᵗ)·(p⁺ − a)
    ```

    This is the bias-corrected average: a = Σ Dᵗ⁻ⁱ·pᵢ / Σ Dᵗ⁻ⁱ over the steps i = 1 … t.

    Source: Polyak, Juditsky, *Acceleration of stochastic approximation by averaging*, 1992; the correction
    as in Kingma, Ba, *Adam*, ICLR 2015.
    """

    def init_fn(params: optax.Params) -> AverageState:
        # A copy: the parameters may be donated.
        average = jax.tree.map(lambda p: jnp.array(p, jnp.float32, copy=True), params)
        return AverageState(jnp.zeros([], jnp.int32), inner.init(params), average)

    def update_fn(updates, state, params: Any = None, **extra_args):
        updates, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        step = state.step + 1
        # 1 − Dᵗ without cancellation.
        share = (1 - decay) / -jnp.expm1(step.astype(jnp.float32) * math.log(decay))
        new = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + share * (p.astype(jnp.float32) - a), state.average, new)
        return updates, AverageState(step, inner_state, average)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


Prox = Callable[..., Any]


def make_schedule(spec: Spec, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step: it rises linearly over the warm-up, then decays to the end."""
    peak = spec.learning_rate
    total = spec.num_epochs * steps_per_epoch
    warmup = min(round(spec.warmup_epochs * steps_per_epoch), total - 1)
    decay = decay_schedule(spec.schedule, total - warmup, peak)
    if warmup == 0:
        return decay
    # From peak/(warmup + 1), so that the first step is not wasted on a rate of 0.
    begin = peak * (0.2 if spec.schedule == "triangle" else 1 / (warmup + 1))
    rise = optax.linear_schedule(begin, peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def decay_schedule(name: str, num_steps: int, peak: float = 1.0) -> optax.Schedule:
    """A decay from the peak to 0 in that many steps, for "triangle" to 7 % of it; or a constant."""
    match name:
        case "cosine":
            return optax.cosine_decay_schedule(peak, num_steps)
        case "linear":
            return optax.linear_schedule(peak, 0.0, num_steps)
        case "triangle":
            return optax.linear_schedule(peak, 0.07 * peak, num_steps)
        case _:
            return optax.constant_schedule(peak)


def make_optimizer(
    spec: Spec, steps_per_epoch: int, *, watched: bool = True
) -> optax.GradientTransformationExtraArgs:
    """Clipping, the adaptive step, smoothing, then the optimizer; each only if it is asked for.

    Around them low memory, the rounding of bfloat16 parameters, freezing and averaging, in this order.
    With `watched` the state holds the gradient's norm.
    """
    parts = []
    if spec.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(spec.clip_norm))
    if spec.adaptive_step:
        parts.append(nag_optax.scale_by_gradient_norm())
    if spec.smoothing:
        parts.append(optax.ema(spec.smoothing))
    model = spec.model_row
    prox = None if spec.prune_strength is None else units_prox(model.hidden_layers, spec.prune_strength)
    parts.append(
        core(
            spec.optimizer_row,
            make_schedule(spec, steps_per_epoch),
            spec.optimizer_options,
            model=model,
            num_steps=spec.num_epochs * steps_per_epoch,
            prox=prox,
        )
    )
    optimizer = optax.chain(*parts)
    if spec.low_memory:
        optimizer = nag_optax.low_memory(optimizer, seed=spec.seed)
    if spec.bfloat16_parameters:
        rounding = nag_optax.stochastic_rounding(spec.seed)
        optimizer = optax.chain(in_float32(optax.with_extra_args_support(optimizer)), rounding)
    if watched:
        optimizer = optax.chain(with_gradient_norm(steps_per_epoch), optimizer)
    if spec.freeze:
        optimizer = freeze(optimizer, spec.freeze)
    optimizer = optax.with_extra_args_support(optimizer)
    return averaged(optimizer, spec.ema) if spec.ema else optimizer


def core(
    row: Optimizer,
    learning_rate: optax.Schedule,
    options: dict[str, Any] | None = None,
    *,
    prox: Prox | None = None,
    option: str = "--optimizer",
    **of_run: Any,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of a row, with its own defaults where no options are given.

    It may take what is known `of_run`: `model` and `num_steps`. Errors begin with the `option` that named it.
    """
    options = dict(all_options(row) if options is None else options)
    if row.goes_around:
        inner = core(optimizer_row(options.pop("inner")), learning_rate, options, option="--inner", **of_run)
        return optax.with_extra_args_support(load_factory(row.make)(inner))
    options |= {name: of_run[name] for name in row.of_run}
    if prox is None or row.pruned is None:
        make = load_factory(row.make, option)
        what, call = f"{option} {row.label}", "factory(learning_rate), with a schedule"
        check_call(what, call, make, learning_rate, **options)
        made = make(learning_rate, **options)
        if not hasattr(made, "update"):
            kind = type(made).__name__
            raise InputError(f"{what}: returns {kind}, no transformation of Optax; the trainer calls {call}")
    else:
        del options["weight_decay"]
        made = load_factory(row.pruned)(learning_rate, prox, **options)
    return optax.with_extra_args_support(made)


def check_update(optimizer: optax.GradientTransformationExtraArgs, params: optax.Params, what: str) -> None:
    """Refuses a user's own optimizer that needs more than the trainer gives."""
    try:
        state = jax.eval_shape(optimizer.init, params)
        jax.eval_shape(partial(optimizer.update, value=jnp.zeros([])), params, state, params)
    except TypeError as error:
        call = "update(gradients, state, params, value=loss)"
        raise InputError(f"{what}: {reason(error)}; the trainer calls {call}") from error


def matrices(params: optax.Params) -> Any:
    """Weight decay is for kernels: biases and the scales of normalisation stay free."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _factory(make: Callable[..., optax.GradientTransformation]) -> Callable[..., Any]:
    """An optimizer with two options of the trainer: the momentum's schedule, and decay of matrices alone."""

    def made(*of_run: Any, **options: Any) -> optax.GradientTransformation:
        if options.pop("momentum_schedule", "constant") == "sutskever":
            options["momentum"] = nag_optax.momentum.sutskever(options["momentum"])
        if "weight_decay" in options:
            options["mask"] = matrices
        return make(*of_run, **options)

    return made


@_factory
def sgd(rate: optax.Schedule, *, weight_decay: float, mask: Any) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(rate))


@_factory
def heavy_ball(
    rate: optax.Schedule, *, momentum: float, weight_decay: float, mask: Any
) -> optax.GradientTransformation:
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(optax.trace(momentum), decay, optax.scale_by_learning_rate(rate))


@_factory
def muon(rate: optax.Schedule, *, model: Model, **options: Any) -> optax.GradientTransformation:
    def is_hidden_matrix(path: Any, leaf: Any) -> bool:
        """Every kernel, also of convolutions, except for the head and embeddings, as published."""
        module = jax.tree_util.keystr(path[:1], simple=True)
        return leaf.ndim > 1 and module not in (model.head, *model.embeddings)

    fallback = optax.adamw(rate, weight_decay=options["weight_decay"], mask=matrices)
    return nag_optax.muon(rate, fallback=fallback, matrices=is_hidden_matrix, **options)


def pruned_sgd(rate: optax.Schedule, prox: Prox) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_learning_rate(rate), nag_optax.proximal(prox, rate))


def nag_restart(rate: optax.Schedule) -> optax.GradientTransformation:
    return nag_optax.nag(rate, nag_optax.momentum.fista(), restart="gradient")


nag, laprop, pruned_nag = map(_factory, (nag_optax.nag, nag_optax.laprop, nag_optax.fista))
adamw, nadamw, adan = map(_factory, (optax.adamw, nag_optax.nadamw, nag_optax.adan))
