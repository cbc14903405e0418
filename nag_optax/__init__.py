"""Nesterov acceleration for JAX and Optax: one transformation, exact and proven."""

from nag_optax.acceleration import momentum as momentum
from nag_optax.acceleration.evaluation import eval_params as eval_params
from nag_optax.acceleration.kernel import AccelerateState as AccelerateState
from nag_optax.acceleration.kernel import ScaleByNesterovState as ScaleByNesterovState
from nag_optax.acceleration.kernel import accelerate as accelerate
from nag_optax.acceleration.kernel import scale_by_nesterov as scale_by_nesterov
from nag_optax.optimizers.nag import nag as nag
