"""The papers in float64 NumPy, in the papers' own variables. Nothing here imports the package."""

from tests.reference.adaptive import adan, algoperf_nadamw, dozat_nadam, keras_nadam, laprop, torch_nadam
from tests.reference.low_memory import counter_uniform, decode, encode, to_bfloat16
from tests.reference.matrices import muon, newton_schulz
from tests.reference.operators import (
    block_soft_threshold,
    elastic_net_prox,
    simplex,
    singular_value_threshold,
    soft_threshold,
)
from tests.reference.outer import (
    adam_step,
    diloco,
    ema_nesterov,
    gpa,
    gradient_descent_step,
    heavy_ball_step,
    snoo,
)
from tests.reference.proximal import Backtracked, fista, fista_with_backtracking, lasso_fista
from tests.reference.rules import (
    chambolle_dossal,
    constant_step_scheme,
    gfista,
    item,
    ogm,
    scheduled_restart,
    triple_momentum,
)
from tests.reference.scales import gradient_norm_scales
from tests.reference.sequences import (
    keras_sgd,
    nesterov,
    nesterov_with_restart,
    sutskever_momentum,
    sutskever_velocity,
    torch_nesterov,
)
from tests.reference.servers import dana_zero, delayed_nesterov, diloco_rounds

__all__ = [
    "Backtracked",
    "adam_step",
    "adan",
    "algoperf_nadamw",
    "block_soft_threshold",
    "chambolle_dossal",
    "constant_step_scheme",
    "counter_uniform",
    "dana_zero",
    "decode",
    "delayed_nesterov",
    "diloco",
    "diloco_rounds",
    "dozat_nadam",
    "elastic_net_prox",
    "ema_nesterov",
    "encode",
    "fista",
    "fista_with_backtracking",
    "gfista",
    "gpa",
    "gradient_descent_step",
    "gradient_norm_scales",
    "heavy_ball_step",
    "item",
    "keras_nadam",
    "keras_sgd",
    "laprop",
    "lasso_fista",
    "muon",
    "nesterov",
    "nesterov_with_restart",
    "newton_schulz",
    "ogm",
    "scheduled_restart",
    "simplex",
    "singular_value_threshold",
    "snoo",
    "soft_threshold",
    "sutskever_momentum",
    "sutskever_velocity",
    "to_bfloat16",
    "torch_nadam",
    "torch_nesterov",
    "triple_momentum",
]
