"""The optimizer of a run, as one Optax chain."""

import optax

from nag_optax.train.catalogue import OPTIMIZERS
from nag_optax.train.freezing import freeze
from nag_optax.train.pruning import units_prox
from nag_optax.train.spec import Spec
from nag_optax.transforms.gradient_norm import scale_by_gradient_norm


def make_schedule(spec: Spec, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step: a linear rise over the warm-up, then the decay to 0 at the end."""
    peak = spec.learning_rate
    total = spec.num_epochs * steps_per_epoch
    warmup = min(round(spec.warmup_epochs * steps_per_epoch), total - 1)
    decay = decay_schedule(spec.schedule, total - warmup, peak)
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


def make_optimizer(spec: Spec, steps_per_epoch: int) -> optax.GradientTransformationExtraArgs:
    """Clipping, the adaptive step, smoothing, then the optimizer; each only if it is asked for."""
    parts = []
    if spec.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(spec.clip_norm))
    if spec.adaptive_step:
        parts.append(scale_by_gradient_norm())
    if spec.smoothing:
        parts.append(optax.ema(spec.smoothing))
    parts.append(_core(spec, make_schedule(spec, steps_per_epoch)))
    optimizer = optax.with_extra_args_support(optax.chain(*parts))
    return freeze(optimizer, spec.freeze) if spec.freeze else optimizer


def _core(spec: Spec, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    row, options = OPTIMIZERS[spec.optimizer], spec.optimizer_options
    if spec.prune_strength is None or row.pruned is None:
        return row.make(learning_rate, **options)
    del options["weight_decay"]  # The prox takes its place.
    return row.pruned(learning_rate, units_prox(spec.model, spec.prune_strength), **options)
