"""The words of the page "Does it pay?" hold for the results that it shows."""

import json
import math
import statistics

import pytest

from benchmarks import characters, cifar, pays, render
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


def test_a_difference_within_three_standard_errors_is_called_chance():
    """The differences -0.5 and -1.5 have a standard error of 0.5, and so have 2 and 1."""
    assert pays.verdict([1.0, 1.0], [1.5, 2.5]) == "nothing beyond chance (1.000 higher loss)"
    assert pays.verdict([2.5, 2.5], [0.5, 1.5]) == "nothing beyond chance (1.500 lower loss)"
    assert pays.verdict([2.75, 2.5], [0.5, 1.25]) == "1.750 lower loss"
    assert pays.points([0.5, 0.5], [0.75, 0.6875]) == "21.9 points higher accuracy"
    assert pays.points([0.5, 0.5], [0.25, 0.375]) == "nothing beyond chance (18.8 points lower accuracy)"


def test_what_is_said_of_cifar_is_so():
    result = json.loads((render.RESULTS / "cifar-cnn.json").read_text())
    accuracy, first, last = {}, {}, {}
    for decay, found in result["optimizers"].items():
        for name, entry in found.items():
            losses = cifar.means(entry["x"]["loss"])
            first[decay, name], last[decay, name] = losses[0], losses[-1]
            accuracy[decay, name] = statistics.fmean(run[-1] for run in entry["x"]["accuracy"])

    def ranked(numbers: dict, decay: str) -> list[str]:
        return sorted((name for at, name in numbers if at == decay), key=lambda name: numbers[decay, name])

    assert (
        ranked(accuracy, "cosine")[-1] == ranked(first, "cosine")[0] == ranked(last, "cosine")[-1] == "muon"
    )
    assert ranked(first, "constant")[-1] == ranked(last, "constant")[0] == "muon"
    cosine, constant = (result["optimizers"][decay]["nag"]["x"]["loss"] for decay in cifar.DECAYS)
    assert not pays.verdict([r[-1] for r in constant], [r[-1] for r in cosine]).startswith("nothing")


def test_a_solver_that_misses_the_gap_is_said_to():
    gap = f"{large.GAPS[-1]:g}"
    at = {gap: {"seconds": 2.0}}
    problem = {"solvers": {"nag_optax.minimize": {gap: {"seconds": 1.0}}, "jaxopt.ProximalGradient": at}}
    missed = {"solvers": {"nag_optax.minimize": at, "jaxopt.ProximalGradient": {}}}
    assert pays._jaxopt({"problems": [problem]}) == "0.50 of the time on the large problems"
    assert pays._jaxopt({"problems": [problem, missed]}).endswith("does not reach the gap on 1 of 2")
