"""Proximal operators, over any tree of parameters.

A prox is any callable `prox(params, step_size) -> params`, the solution of
argmin_z step_size·g(z) + ½‖z − params‖². The ones made here are instances of `Prox`, and know g too.
"""

from nag_optax.prox.base import Prox as Prox
from nag_optax.prox.base import ProxLike as ProxLike
from nag_optax.prox.constraints import box as box
from nag_optax.prox.constraints import nonnegative as nonnegative
from nag_optax.prox.groups import group_l2 as group_l2
from nag_optax.prox.leafwise import leafwise as leafwise
from nag_optax.prox.nuclear import nuclear_norm as nuclear_norm
from nag_optax.prox.parts import separable as separable
from nag_optax.prox.projections import projection as projection
from nag_optax.prox.shrinkage import elastic_net as elastic_net
from nag_optax.prox.shrinkage import l1 as l1
