"""The search among the variants of NAdamW, with runs that are formulas."""

import inspect
import json
import statistics
from pathlib import Path
from typing import get_args

import jax
import numpy as np
import pytest

import nag_optax
from benchmarks import language, nadam, render
from nag_optax.optimizers.nadam import Variant


def prepare(task, data_dir):
    """The lowest loss is 0.5 for AdamW, at twice the centre, and 0.25 for the others, at a quarter."""
    del data_dir
    adamw = lambda rate: 0.5 + abs(np.log2(rate / task.centre) - 1)  # noqa: E731
    others = lambda rate: 0.25 + abs(np.log2(rate / task.centre) + 2)  # noqa: E731
    return lambda name, make: (
        lambda rate: [
            (adamw if name == nadam.BASELINE else others)(rate) + 0.1 * seed for seed in range(task.seeds)
        ]
    )


def test_each_optimizer_is_judged_at_its_own_best_rate(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(nadam, "TASKS", {name: nadam.Task(name, 0.01, 2, prepare) for name in ("one", "two")})
    path = tmp_path / "nadam.json"
    nadam.main(["--tasks", "two", "--json", str(path)])
    nadam.main(["--tasks", "one", "--json", str(path)])
    tasks = json.loads(path.read_text())["tasks"]
    assert list(tasks) == ["one", "two"]  # in the order of the table, whichever ran first
    (adamw, dozat, *_) = nadam.rows(tasks["one"])
    assert adamw[:4] == ("one, 2 seeds", "`optax.adamw`", "0.02", "0.55 ± 0.07") and adamw[4] == ""
    assert dozat[1:5] == ('`nadamw(variant="dozat")`', "0.0025", "0.3 ± 0.07", "0.25 ± 0")
    assert dozat[5].startswith("0.00125: ") and "| two, 2 seeds" in capsys.readouterr().out
    assert "## The variants of NAdamW\n" in render.section(path)


def test_the_default_is_the_best_of_the_search():
    """By the geometric mean over the tasks, to which a task's unit does not matter."""
    tasks = json.loads((render.RESULTS / "nadam.json").read_text())["tasks"]
    assert set(tasks) == set(nadam.TASKS)

    def mean(name: str) -> float:
        found = [task["optimizers"][name] for task in tasks.values()]
        return statistics.geometric_mean(np.mean(f["trials"][f["best"]]["validation_loss"]) for f in found)

    best = min(get_args(Variant), key=lambda variant: mean(f'nadamw(variant="{variant}")'))
    for optimizer in (nag_optax.nadam, nag_optax.nadamw):
        assert inspect.signature(optimizer).parameters["variant"].default == best


def test_images_need_their_folder(tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        nadam.main(["--tasks", "mnist-mlp", "--json", str(tmp_path / "nadam.json")])
    assert "--tasks mnist-mlp: needs --data-dir" in capsys.readouterr().err


def test_a_character_is_predicted_from_those_before_it(standard_promotion, monkeypatch):
    monkeypatch.setattr(language, "LAYERS", 1)
    params = language.init(jax.random.key(0))
    codes = language.standard_library(6000).train[: language.CONTEXT]
    params |= {
        name: jax.random.normal(jax.random.key(1), params[name].shape) for name in ("attention_out", "down")
    }
    changed = codes.copy()
    changed[40] = (codes[40] + 1) % language.VOCABULARY
    first, second = np.asarray(jax.jit(language.logits)(params, np.stack([codes, changed])))
    same = np.isclose(first, second, rtol=1e-5, atol=1e-5).all(-1)
    assert same[:40].all() and not same[40:].any()
    assert first.shape == (language.CONTEXT, language.VOCABULARY)


def test_the_text_is_the_library_and_its_end_is_held_out():
    text = language.standard_library(6000)
    assert (len(text.train), len(text.held_out)) == (5000, 1000)
    codes = np.concatenate(text)
    assert (
        codes.max() < language.VOCABULARY
        and "".join(language.CHARACTERS[c] for c in codes[:10]).isprintable()
    )


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (8, 0.9), (10, 1.0), (55, 0.5), (99, 0.000304586)])
def test_the_rate_rises_over_a_tenth_and_falls_by_a_cosine(step, share):
    assert np.asarray(language.schedule(2.0, 100)(step)) == pytest.approx(2 * share, rel=1e-4)
