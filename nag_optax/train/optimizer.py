"""The optimizer of a configuration, as one Optax chain."""

import optax

from nag_optax.train.catalogue import OPTIMIZERS
from nag_optax.train.checks import prune_strength
from nag_optax.train.config import TrainConfig
from nag_optax.train.freezing import freeze
from nag_optax.train.pruning import units_prox
from nag_optax.transforms.gradient_norm import scale_by_gradient_norm


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
    """Clipping, the adaptive step, smoothing, then the optimizer; each only if it is asked for."""
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.adaptive_step:
        parts.append(scale_by_gradient_norm())
    if config.smoothing:
        parts.append(optax.ema(config.smoothing))
    parts.append(_core(config, make_schedule(config, steps_per_epoch)))
    optimizer = optax.with_extra_args_support(optax.chain(*parts))
    return freeze(optimizer, config.freeze) if config.freeze else optimizer


def _core(config: TrainConfig, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    row = OPTIMIZERS[config.optimizer]
    if config.prune is None:
        return row.make(config, learning_rate)
    assert config.model is not None and row.pruned is not None
    return row.pruned(config, learning_rate, units_prox(config.model, prune_strength(config.prune)))
