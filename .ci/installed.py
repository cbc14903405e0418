"""What must hold where the wheel is installed with the core dependencies alone."""

import importlib.util
import subprocess
import sys
import time

import jax.numpy as jnp
import optax

import nag_optax

for name in ("flax", "sklearn", "tyro", "rich", "matplotlib", "orbax"):
    assert importlib.util.find_spec(name) is None, f"{name} is installed: not the core alone"
assert "site-packages" in str(nag_optax.__file__), f"not the installed package: {nag_optax.__file__}"
for name in set(nag_optax.__all__) - {"plot"}:  # Matplotlib comes with an extra.
    getattr(nag_optax, name)
optimizer = nag_optax.nag(0.1, 0.9)
params = jnp.array([1.0, -2.0])
state = optimizer.init(params)
for _ in range(100):
    updates, state = optimizer.update(2 * params, state, params)
    params = optax.apply_updates(params, updates)
assert float(jnp.max(jnp.abs(nag_optax.eval_params(state, params)))) < 1e-3


def command(*arguments: str) -> tuple[int, str, float]:
    start = time.perf_counter()
    done = subprocess.run(["nag-optax", *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - start


code, said, _ = command("--version")
assert code == 0 and said.startswith("nag-optax "), said
code, said, seconds = command("--help")
assert code == 2 and "pip install 'nag_optax[train]'" in said, said
assert seconds < 3, f"nag-optax --help takes {seconds:.1f} s; benchmarks.startup measures it"  # Ten times.
print(f"nag_optax in {sys.prefix}: the core alone is enough")
