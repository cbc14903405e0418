"""The words of the page "Does it pay?" hold for the results that it shows."""

import json
import math
import statistics

import pytest

from benchmarks import characters, pays, render
from benchmarks.convex import large


@pytest.fixture(scope="module")
def model():
    return json.loads((render.RESULTS / "characters.json").read_text())


@pytest.mark.parametrize("name", ["laprop", "muon", "nadamw"])
def test_what_is_said_to_gain_gains_more_than_chance(model, name):
    found = characters.shown(model)
    gains = [
        base[-1] - mine[-1]
        for base, mine in zip(found[characters.BASELINE]["test"], found[name]["test"], strict=True)
    ]
    assert statistics.fmean(gains) > 3 * statistics.stdev(gains) / math.sqrt(len(gains))


def test_the_page_shows_the_rounded_numbers(model):
    found = characters.shown(model)
    mean = {name: statistics.fmean(run[-1] for run in entry["test"]) for name, entry in found.items()}
    text = pays.page(render.RESULTS)
    assert f"| {mean['optax.adamw'] - mean['laprop']:.3f} lower loss on the character model" in text
    assert f"{abs(mean['optax.adamw'] - mean['adan']):.3f} higher loss" in text
    assert mean["laprop"] < mean["nadamw"] < mean["optax.adamw"]


def test_a_solver_that_misses_the_gap_is_said_to():
    gap = f"{large.GAPS[-1]:g}"
    at = {gap: {"seconds": 2.0}}
    problem = {"solvers": {"nag_optax.minimize": {gap: {"seconds": 1.0}}, "jaxopt.ProximalGradient": at}}
    missed = {"solvers": {"nag_optax.minimize": at, "jaxopt.ProximalGradient": {}}}
    assert pays._jaxopt({"problems": [problem]}) == "0.50 of the time on the large problems"
    assert pays._jaxopt({"problems": [problem, missed]}).endswith("does not reach the gap on 1 of 2")
