"""Momentum rules: the two coefficients (β, γ) a step that make the kernel one method or another."""

from nag_optax.acceleration.momentum.fista import chambolle_dossal as chambolle_dossal
from nag_optax.acceleration.momentum.fista import fista as fista
from nag_optax.acceleration.momentum.fista import gfista as gfista
from nag_optax.acceleration.momentum.ogm import ogm as ogm
from nag_optax.acceleration.momentum.restarting import restarting as restarting
from nag_optax.acceleration.momentum.rule import PLAIN as PLAIN
from nag_optax.acceleration.momentum.rule import Momentum as Momentum
from nag_optax.acceleration.momentum.rule import MomentumRule as MomentumRule
from nag_optax.acceleration.momentum.rule import Step as Step
from nag_optax.acceleration.momentum.rule import as_rule as as_rule
from nag_optax.acceleration.momentum.rule import constant as constant
from nag_optax.acceleration.momentum.rule import scheduled as scheduled
from nag_optax.acceleration.momentum.scheduled_restart import scheduled_restart as scheduled_restart
from nag_optax.acceleration.momentum.strongly_convex import item as item
from nag_optax.acceleration.momentum.strongly_convex import strongly_convex as strongly_convex
from nag_optax.acceleration.momentum.strongly_convex import triple_momentum as triple_momentum
from nag_optax.acceleration.momentum.sutskever import sutskever as sutskever
