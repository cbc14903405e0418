"""Momentum rules: the two coefficients (β, γ) a step that make the kernel one method or another."""

from nag_optax.acceleration.momentum.fista import fista as fista
from nag_optax.acceleration.momentum.rule import Momentum as Momentum
from nag_optax.acceleration.momentum.rule import MomentumRule as MomentumRule
from nag_optax.acceleration.momentum.rule import as_rule as as_rule
from nag_optax.acceleration.momentum.rule import constant as constant
from nag_optax.acceleration.momentum.rule import scheduled as scheduled
from nag_optax.acceleration.momentum.sutskever import sutskever as sutskever
