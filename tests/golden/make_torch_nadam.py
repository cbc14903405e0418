"""Writes torch_nadam.npz: float64 trajectories of torch.optim.NAdam in both of its decay modes.

    python tests/golden/make_torch_nadam.py      (written with torch 2.13)

f(p) = ½ pᵀHp + ¼ c Σp⁴, so the gradient is Hp + c p³. Each run is an array of points, and its
settings are the row of the same index in `settings`: b1, b2, eps, momentum_decay, weight_decay,
decoupled, whether the learning rate falls, and the seed of its problem.
"""

from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

STEPS, RATE, QUARTIC, SEEDS = 50, 0.08, 0.1, (3, 4)
SETTINGS = [
    (0.9, 0.999, 1e-8, 4e-3, 0.0, 0, 0, 0),
    (0.9, 0.999, 1e-8, 4e-3, 0.05, 0, 1, 0),
    (0.9, 0.999, 1e-8, 4e-3, 0.05, 1, 1, 1),
    (0.7, 0.95, 1e-3, 0.5, 0.3, 1, 0, 0),
    (0.95, 0.9, 0.1, 0.0, 0.2, 0, 1, 1),
    (0.9, 0.999, 1e-8, 1.0, 0.0, 0, 1, 1),
]


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    return basis @ np.diag(np.geomspace(0.1, 5.0, 5)) @ basis.T, rng.standard_normal(5)


def trajectory(hessian: np.ndarray, start: np.ndarray, rates: list[float], setting: tuple) -> np.ndarray:
    b1, b2, eps, momentum_decay, weight_decay, decoupled = setting
    h = torch.tensor(hessian)
    p = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.NAdam(
        [p],
        lr=rates[0],
        betas=(b1, b2),
        eps=eps,
        weight_decay=weight_decay,
        momentum_decay=momentum_decay,
        decoupled_weight_decay=bool(decoupled),
    )
    points = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (0.5 * (p @ (h @ p)) + 0.25 * QUARTIC * (p**4).sum()).backward()
        optimizer.step()
        points.append(p.detach().numpy().copy())
    return np.stack(points)


def main() -> None:
    # NAdam keeps the product of μ in the default dtype, whatever that of the parameters.
    torch.set_default_dtype(torch.float64)
    problems = [problem(seed) for seed in SEEDS]
    rates = np.array([[RATE] * STEPS, [RATE / (1 + t / 10) for t in range(STEPS)]])
    np.savez(
        Path(__file__).with_name("torch_nadam.npz"),
        hessians=np.stack([hessian for hessian, _ in problems]),
        starts=np.stack([start for _, start in problems]),
        quartic=QUARTIC,
        rates=rates,
        settings=np.array(SETTINGS),
        points=np.stack([trajectory(*problems[s[7]], rates[s[6]].tolist(), s[:6]) for s in SETTINGS]),
    )


if __name__ == "__main__":
    main()
