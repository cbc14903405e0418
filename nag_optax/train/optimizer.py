"""The optimizer of a configuration, as one Optax chain."""

from typing import Any

import jax
import optax

import nag_optax
from nag_optax.train.config import TrainConfig


def make_schedule(config: TrainConfig, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step: a linear rise over the warm-up, then the decay to 0 at the end."""
    assert config.learning_rate is not None and config.num_epochs is not None
    assert config.warmup_epochs is not None and config.schedule is not None
    peak = config.learning_rate
    total = config.num_epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    decay = decay_schedule(config.schedule, total - warmup, peak)
    if warmup == 0:
        return decay
    # From peak/(warmup + 1), so that the first step is not wasted on a rate of 0.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, decay], [warmup])


def decay_schedule(name: str, num_steps: int, peak: float = 1.0) -> optax.Schedule:
    """From the peak to 0 in that many steps, or constant."""
    match name:
        case "cosine":
            return optax.cosine_decay_schedule(peak, num_steps)
        case "linear":
            return optax.linear_schedule(peak, 0.0, num_steps)
        case _:
            return optax.constant_schedule(peak)


def make_optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Clipping, then smoothing, then the optimizer; each only if it is asked for."""
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.smoothing:
        parts.append(optax.ema(config.smoothing))
    parts.append(_core(config, make_schedule(config, steps_per_epoch)))
    return optax.with_extra_args_support(optax.chain(*parts))


def _core(config: TrainConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    assert config.weight_decay is not None
    decay = optax.add_decayed_weights(config.weight_decay, mask=_matrices)
    match config.optimizer:
        case "nag":
            assert config.momentum is not None
            sutskever = config.momentum_schedule == "sutskever"
            return nag_optax.nag(
                learning_rate,
                nag_optax.momentum.sutskever(config.momentum) if sutskever else config.momentum,
                weight_decay=config.weight_decay,
                mask=_matrices,
                restart=config.restart,
            )
        case "sgd":
            return optax.chain(decay, optax.scale_by_learning_rate(learning_rate))
        case "momentum":
            assert config.momentum is not None
            trace = optax.trace(config.momentum)
            return optax.chain(trace, decay, optax.scale_by_learning_rate(learning_rate))
        case "adam":
            return optax.adam(learning_rate)
        case "adamw":
            return optax.adamw(learning_rate, weight_decay=config.weight_decay, mask=_matrices)


def _matrices(params: Any) -> Any:
    """Weight decay is for kernels: biases and the scales of normalisation stay free."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
