"""Writes torch_muon.npz: trajectories of torch.optim.Muon, in float64 and as it is.

    python tests/golden/make_torch_muon.py      (written with torch 2.13)

f(W) = ½‖AW − B‖² + ¼ c ΣW⁴, so the gradient is Aᵀ(AW − B) + c W³; the file holds A, B, c and the
start too. torch.optim.Muon orthogonalises in bfloat16: the names that begin with "bfloat16" are
its numbers as it is; for the others the one call that casts to bfloat16 casts to float64.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

STEPS, RATE, MOMENTUM, DECAY, QUARTIC = 60, 0.05, 0.95, 0.1, 0.1


def trajectory(
    problem: dict[str, np.ndarray], rates: list[float], scaling: str, decay: float, **kwargs: Any
) -> np.ndarray:
    a, b = torch.tensor(problem["a"]), torch.tensor(problem["b"])
    w = torch.tensor(problem["start"], requires_grad=True)
    optimizer = torch.optim.Muon(
        [w], lr=rates[0], momentum=MOMENTUM, weight_decay=decay, adjust_lr_fn=scaling, **kwargs
    )
    points = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (0.5 * ((a @ w - b) ** 2).sum() + 0.25 * QUARTIC * (w**4).sum()).backward()
        optimizer.step()
        points.append(w.detach().numpy().copy())
    return np.stack(points)


def main() -> None:
    rng = np.random.default_rng(11)
    constant = [RATE] * STEPS
    scheduled = [RATE if t < 20 else RATE / 10 if t < 40 else RATE * (1 - t / 80) for t in range(STEPS)]
    numbers: dict[str, Any] = {
        "quartic": QUARTIC,
        "momentum": MOMENTUM,
        "decay": DECAY,
        "rates_constant": constant,
        "rates_scheduled": scheduled,
    }
    to_bfloat16 = torch.Tensor.bfloat16
    for shape, (rows, columns) in {"tall": (6, 3), "wide": (3, 4)}.items():
        problem = {
            "a": rng.standard_normal((5, rows)),
            "b": 3.0 * rng.standard_normal((5, columns)),
            "start": rng.standard_normal((rows, columns)),
        }
        numbers |= {f"{shape}_{name}": value for name, value in problem.items()}
        torch.Tensor.bfloat16 = torch.Tensor.double
        for scaling in ("original", "match_rms_adamw"):
            numbers[f"{shape}_{scaling}"] = trajectory(problem, scheduled, scaling, DECAY)
        numbers[f"{shape}_cubic"] = trajectory(
            problem, constant, "original", 0.0, ns_coefficients=(1.5, -0.5, 0.0), ns_steps=9
        )
        torch.Tensor.bfloat16 = to_bfloat16
        numbers[f"bfloat16_{shape}"] = trajectory(problem, scheduled, "original", DECAY)
    np.savez(Path(__file__).with_name("torch_muon.npz"), **numbers)


if __name__ == "__main__":
    main()
