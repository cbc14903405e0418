"""Nesterov momentum for JAX: Optax optimizers for networks, a convex solver, and a trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nag_optax import export as export
    from nag_optax import plot as plot
    from nag_optax import prox as prox
    from nag_optax.acceleration import momentum as momentum
    from nag_optax.acceleration.evaluation import eval_params as eval_params
    from nag_optax.acceleration.iterate import IterateState as IterateState
    from nag_optax.acceleration.iterate import OuterState as OuterState
    from nag_optax.acceleration.kernel import AccelerateState as AccelerateState
    from nag_optax.acceleration.kernel import ScaleByNesterovState as ScaleByNesterovState
    from nag_optax.acceleration.kernel import accelerate as accelerate
    from nag_optax.acceleration.kernel import scale_by_nesterov as scale_by_nesterov
    from nag_optax.optimizers.adan import adan as adan
    from nag_optax.optimizers.ema_nesterov import ema_nesterov as ema_nesterov
    from nag_optax.optimizers.fista import fista as fista
    from nag_optax.optimizers.gpa import gpa as gpa
    from nag_optax.optimizers.laprop import laprop as laprop
    from nag_optax.optimizers.muon import muon as muon
    from nag_optax.optimizers.nadam import nadam as nadam
    from nag_optax.optimizers.nadam import nadamw as nadamw
    from nag_optax.optimizers.nag import nag as nag
    from nag_optax.optimizers.snoo import snoo as snoo
    from nag_optax.solver.minimize import minimize as minimize
    from nag_optax.solver.solution import History as History
    from nag_optax.solver.solution import Reason as Reason
    from nag_optax.solver.solution import Solution as Solution
    from nag_optax.transforms.gradient_norm import scale_by_gradient_norm as scale_by_gradient_norm
    from nag_optax.transforms.low_memory import low_memory as low_memory
    from nag_optax.transforms.matrices import Matrix as Matrix
    from nag_optax.transforms.orthogonalize import orthogonalize as orthogonalize
    from nag_optax.transforms.proximal import proximal as proximal
    from nag_optax.transforms.stochastic_rounding import stochastic_rounding as stochastic_rounding

# Where each public name lives. They are imported on first use, so that the command line answers
# --help without waiting for JAX.
_HOMES = {
    "AccelerateState": "nag_optax.acceleration.kernel",
    "History": "nag_optax.solver.solution",
    "IterateState": "nag_optax.acceleration.iterate",
    "Matrix": "nag_optax.transforms.matrices",
    "OuterState": "nag_optax.acceleration.iterate",
    "Reason": "nag_optax.solver.solution",
    "ScaleByNesterovState": "nag_optax.acceleration.kernel",
    "Solution": "nag_optax.solver.solution",
    "accelerate": "nag_optax.acceleration.kernel",
    "adan": "nag_optax.optimizers.adan",
    "ema_nesterov": "nag_optax.optimizers.ema_nesterov",
    "eval_params": "nag_optax.acceleration.evaluation",
    "export": "nag_optax.export",
    "fista": "nag_optax.optimizers.fista",
    "gpa": "nag_optax.optimizers.gpa",
    "laprop": "nag_optax.optimizers.laprop",
    "low_memory": "nag_optax.transforms.low_memory",
    "minimize": "nag_optax.solver.minimize",
    "momentum": "nag_optax.acceleration",
    "nadam": "nag_optax.optimizers.nadam",
    "nadamw": "nag_optax.optimizers.nadam",
    "muon": "nag_optax.optimizers.muon",
    "nag": "nag_optax.optimizers.nag",
    "orthogonalize": "nag_optax.transforms.orthogonalize",
    "plot": "nag_optax.plot",
    "prox": "nag_optax.prox",
    "proximal": "nag_optax.transforms.proximal",
    "scale_by_gradient_norm": "nag_optax.transforms.gradient_norm",
    "scale_by_nesterov": "nag_optax.acceleration.kernel",
    "snoo": "nag_optax.optimizers.snoo",
    "stochastic_rounding": "nag_optax.transforms.stochastic_rounding",
}
__version__: str
__all__ = list(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll] (the names above)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        globals()[name] = value = import_module("importlib.metadata").version("nag_optax")
        return value
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(_HOMES[name])
    # A name may be a module itself.
    globals()[name] = value = home if home.__name__ == f"{__name__}.{name}" else getattr(home, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
