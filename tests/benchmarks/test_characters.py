"""The comparison on the character model, with few steps or with losses that are made up."""

import inspect
import json
from pathlib import Path

import jax
import numpy as np
import optax
import optax.contrib
import pytest

from benchmarks import characters, language, render
from nag_optax import nag

pytestmark = pytest.mark.usefixtures("standard_promotion")
theirs = pytest.param(
    "optax.contrib.muon",
    marks=pytest.mark.skipif(
        "consistent_rms" not in inspect.signature(optax.contrib.muon).parameters,
        reason="this Optax scales Muon's steps in one way alone",
    ),
)


def entry(validation: list[list[float]], test: list[list[float]]):
    trial = {"learning_rate": 0.01, "validation_loss": [1.0]}
    return {
        "trials": [trial],
        "best": 0,
        "state_bytes": 8.0,
        "losses": {"validation": validation, "test": test},
    }


def test_the_table_compares_with_adamw_seed_by_seed(tmp_path: Path, capsys, monkeypatch):
    """A run of 8 steps and 4 evaluations; the second optimizer reaches AdamW's mean, 2, at the third."""
    losses = {
        characters.BASELINE: entry([[5, 4, 3, 1], [5, 4, 3, 3]], [[9, 9, 9, 1.5], [9, 9, 9, 3.5]]),
        "laprop": entry([[5, 4, 1, 1], [5, 4, 3, 1]], [[9, 9, 9, 1.0], [9, 9, 9, 2.0]]),
    }
    losses[characters.BASELINE]["low_memory"] = {
        "state_bytes": 2.5,
        "losses": {"validation": [[5.0] * 4] * 2, "test": [[5.0] * 4] * 2},
    }
    names = tuple(losses)
    monkeypatch.setattr(characters, "contenders", lambda: dict.fromkeys(names))
    monkeypatch.setattr(characters, "measured", lambda contender, text, steps: losses.popitem()[1])
    monkeypatch.setattr(characters, "milliseconds", lambda repeats: {"laprop": 0.25})
    path = tmp_path / "characters.json"
    characters.main(["--optimizers", "laprop", "--steps", "8", "--json", str(path)])
    characters.main(["--steps", "8", "--json", str(path)])  # the one that is missing
    first, second, third = characters.rows(json.loads(path.read_text()))
    assert first == ("`laprop`", "0.01", "1.500 ± 0.707", "1.000 ± 0.707", "6", "8.00", "0.25")
    assert second == ("`optax.adamw`", "0.01", "2.500 ± 1.414", "", "8", "8.00", "")
    assert third[0] == "`optax.adamw, one byte`" and third[3:6] == ("-2.500 ± 1.414", "not reached", "2.50")
    assert "| `laprop`" in capsys.readouterr().out and "## A small character model\n" in render.section(path)


def test_no_test_window_meets_one_that_chooses_a_learning_rate():
    text = language.Text(np.zeros(9), np.arange(216_667))
    validation, test = map(np.asarray, language.windows(text))
    assert len(validation) == language.WINDOWS and len(test) == language.WINDOWS - 1
    assert not np.isin(validation, test).any() and (np.diff(validation, axis=1) == 1).all()


@pytest.mark.exhaustive
def test_each_evaluation_examines_the_iterate_or_the_parameters(monkeypatch):
    """With a learning rate of 0 both stay; with momentum the iterate is elsewhere than the parameters."""
    monkeypatch.setattr(language, "LAYERS", 1)
    monkeypatch.setattr(language, "WINDOWS", 4)
    text = language.standard_library(6000)
    runs = {}
    for name, evaluated in (("x", None), ("p", lambda state, params: params)):
        options = {} if evaluated is None else {"evaluated": evaluated}
        train = language.trainer(lambda rate: nag(rate, 0.9), text, [0, 1], 4, evaluations=2, **options)
        runs[name] = train(0.1)
        assert runs[name].validation.shape == runs[name].test.shape == (2, 2)
        still = train(0.0).test
        assert (still[:, 0] == still[:, 1]).all() and not (still == runs[name].test).any()
    assert not (runs["x"].validation == runs["p"].validation).any()


@pytest.mark.parametrize("name", ["muon", theirs])
def test_both_muons_take_the_layers_and_leave_the_rest(name: str):
    params = jax.eval_shape(language.init, jax.random.key(0))
    matrices = sum(params[name].size for name in ("attention", "attention_out", "up", "down"))
    rest = sum(leaf.size for leaf in jax.tree.leaves(params)) - matrices
    made = characters.contenders()[name].make(lambda _: 0.0)
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(made.init, params))]
    arrays = [size for size in sizes if size > 3]  # Counters and Newton–Schulz's coefficients are not.
    assert sum(arrays) == matrices + 2 * rest


@pytest.mark.parametrize(
    "name", [theirs if name == "optax.contrib.muon" else name for name in characters.contenders()]
)
def test_every_contender_moves(name):
    """By its schedule, in float32 and, where that is compared, in one byte."""
    contender = characters.contenders()[name]
    params = {key: jax.numpy.ones((2, 3, 4)) for key in ("attention", "head")}
    optimizer = optax.with_extra_args_support(contender.make(lambda _: 0.1))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(updates))


def test_an_unknown_optimizer_is_named(tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        characters.main(["--optimizers", "lion", "--json", str(tmp_path / "x.json")])
    assert "--optimizers: 'lion' is none of optax.adamw, " in capsys.readouterr().err
