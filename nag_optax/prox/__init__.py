"""Proximal operators, over any tree of parameters.

A prox is any callable `prox(params, step_size) -> params`, the solution of
argmin_z step_size·g(z) + ½‖z − params‖². Those made here are instances of `Prox` and know g as well.
"""

from nag_optax.prox.base import Prox as Prox
from nag_optax.prox.base import ProxLike as ProxLike
from nag_optax.prox.shrinkage import l1 as l1
