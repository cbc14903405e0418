"""Writes torch_sgd.npz: float64 trajectories of torch.optim.SGD(nesterov=True).

    python tests/golden/make_torch_sgd.py      (written with torch 2.13)

f(p) = ½ pᵀHp + ¼ c Σp⁴, so the gradient is Hp + c p³; the file holds H, c and the start too.
"""

from pathlib import Path

import numpy as np
import torch  # pyright: ignore[reportMissingImports]

STEPS, RATE, MOMENTUM, DECAY, QUARTIC = 60, 0.08, 0.9, 0.05, 0.1


def trajectory(hessian: np.ndarray, start: np.ndarray, rates: list[float], decay: float) -> np.ndarray:
    h = torch.tensor(hessian)
    p = torch.tensor(start, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=rates[0], momentum=MOMENTUM, nesterov=True, weight_decay=decay)
    points = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        (0.5 * (p @ (h @ p)) + 0.25 * QUARTIC * (p**4).sum()).backward()
        optimizer.step()
        points.append(p.detach().numpy().copy())
    return np.stack(points)


def main() -> None:
    rng = np.random.default_rng(7)
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    hessian = basis @ np.diag(np.geomspace(0.1, 5.0, 5)) @ basis.T
    start = rng.standard_normal(5)
    constant = [RATE] * STEPS
    scheduled = [RATE if t < 20 else RATE / 10 if t < 40 else RATE * (1 - t / 80) for t in range(STEPS)]
    np.savez(
        Path(__file__).with_name("torch_sgd.npz"),
        hessian=hessian,
        start=start,
        quartic=QUARTIC,
        momentum=MOMENTUM,
        decay=DECAY,
        rates_constant=constant,
        rates_scheduled=scheduled,
        constant=trajectory(hessian, start, constant, 0.0),
        scheduled=trajectory(hessian, start, scheduled, 0.0),
        constant_l2=trajectory(hessian, start, constant, DECAY),
        scheduled_l2=trajectory(hessian, start, scheduled, DECAY),
    )


if __name__ == "__main__":
    main()
