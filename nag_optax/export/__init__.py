"""Training and prediction as StableHLO, which runs without the code, and compiled by IREE without JAX."""

from nag_optax.export.program import Leaf as Leaf
from nag_optax.export.program import Program as Program
from nag_optax.export.stored import load as load
from nag_optax.export.stored import save as save
from nag_optax.export.training import predict as predict
from nag_optax.export.training import training_step as training_step
