"""TEMP stand-in until the real one is merged."""

import jax
import optax

from nag_optax.transforms.descent import Mask, add_decay, scale_by_learning_rate


def nadamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Mask | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    return optax.with_extra_args_support(
        optax.chain(
            optax.scale_by_adam(mu_dtype=accumulator_dtype, nesterov=True),
            add_decay(weight_decay if callable(weight_decay) else lambda _: weight_decay, mask),
            scale_by_learning_rate(learning_rate),
        )
    )
