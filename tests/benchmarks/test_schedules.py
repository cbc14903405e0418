"""The comparison of schedules: pairs are what their names say, and the table subtracts the right way."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import render, schedules
from nag_optax import eval_params


def test_nag_at_p_has_the_parameters_of_nag_and_optax_sgd_has_not(standard_promotion):
    curvature = jnp.array([1.0, 0.1])

    def run(name: str):
        optimizer = schedules.optimizers(0.9)[name](lambda count: 0.1 / (1 + count))
        params: Any = jnp.array([1.0, -2.0])
        state = optimizer.init(params)
        for _ in range(4):
            updates, state = optimizer.update(curvature * params, state, params)
            params = optax.apply_updates(params, updates)
        return np.asarray(params), np.asarray(eval_params(state, params))

    (nag, x), (at_p, same), (sgd, _) = map(run, ("nag", "nag at p", "optax.sgd"))
    # Each step rounds a number of at most 2 a few times.
    np.testing.assert_allclose(nag, at_p, rtol=0, atol=4 * 4 * 2.0**-23)
    assert (at_p == same).all() and np.abs(nag - x).max() > 1e-3 and np.abs(nag - sgd).max() > 1e-3


def test_a_row_says_by_how_much_the_first_is_lower(tmp_path: Path):
    pair = schedules.PAIRS[0]
    losses = {"first": [[3.0, 1.0], [3.0, 2.0]], "second": [[3.0, 1.5], [4.0, 2.5]]}
    entry = {"pair": pair._asdict(), "learning_rate": 0.1, "losses": losses}
    (row,) = schedules.rows([entry])
    assert row[:3] == ("nag at p", "optax.sgd", "cosine")
    assert row[5:] == ("1.5000 ± 0.7071", "0.5000 ± 0.0000", "0.5000 ± 0.3536")
    result = json.loads((render.RESULTS / "nadam.json").read_text())
    result |= {"dataset": "mnist", "model": "mlp", "epochs": 2, "pairs": [entry]}
    path = tmp_path / "schedules-mnist.json"
    path.write_text(json.dumps(result))
    section = render.section(path)
    assert "--dataset mnist --data-dir DIR --model mlp" in section and "0.5000 ± 0.3536" in section


@pytest.mark.exhaustive  # It compiles eight programs.
def test_the_trainer_runs_each_pair(tmp_path: Path, monkeypatch, standard_promotion, capsys):
    monkeypatch.setattr(schedules, "SEEDS", 2)
    monkeypatch.setattr(schedules, "PAIRS", schedules.PAIRS[2:3])
    path = tmp_path / "schedules.json"
    schedules.main(["--num-epochs", "2", "--json", str(path)])
    (entry,) = json.loads(path.read_text())["pairs"]
    assert np.shape(entry["losses"]["first"]) == np.shape(entry["losses"]["second"]) == (2, 2)
    assert "| nag " in capsys.readouterr().out
