"""The grid: its learning rates, the best one, and when it grows."""

import pytest

from nag_optax.compare.search import decade_rung, doubling_rung, judged, search


def searched(loss, width=2):
    """Searches the powers of two for the smallest `loss(exponent)`; None stands for divergence."""
    tried = []

    def run(rates):
        tried.append(list(rates))
        return [{"learning_rate": rate, "loss": loss(rate)} for rate in rates]

    return search(run, lambda trial: trial["loss"], lambda i: i, width), tried


def test_rungs_are_ones_and_threes_around_the_centre():
    assert [decade_rung(0.1)(i) for i in range(-3, 3)] == [0.003, 0.01, 0.03, 0.1, 0.3, 1.0]
    assert [decade_rung(3e-3)(i) for i in range(-2, 2)] == [3e-4, 1e-3, 3e-3, 1e-2]
    assert [doubling_rung(0.25)(i) for i in range(-1, 3)] == [0.125, 0.25, 0.5, 1.0]


def test_a_best_inside_the_grid_ends_the_search():
    found, tried = searched(lambda i: (i - 1) ** 2)
    assert tried == [[-2, -1, 0, 1, 2]]
    assert found.best == 3 and found.trials[3]["learning_rate"] == 1 and found.note == ""


@pytest.mark.parametrize("sign", [1, -1])
def test_the_grid_grows_while_its_edge_is_best(sign):
    found, tried = searched(lambda i: (i - 4 * sign) ** 2)
    assert [rates[0] * sign for rates in tried[1:]] == [3, 4, 5]
    assert found.best is not None and found.trials[found.best]["learning_rate"] == 4 * sign
    assert found.note == ""
    rates = [trial["learning_rate"] for trial in found.trials]
    assert rates == sorted(rates) and len(rates) == 8


def test_the_grid_stops_growing_and_says_so():
    found, tried = searched(lambda i: -i)
    assert len(tried) == 5 and found.best == len(found.trials) - 1 == 8
    assert found.note == "best at the highest learning rate tried; one beyond it may be better"
    found, _ = searched(lambda i: i)
    assert found.best == 0 and "lowest" in found.note


def test_what_diverges_is_never_best_and_smaller_rates_are_tried():
    found, tried = searched(lambda i: None if i > -4 else -i)
    assert [rates[0] for rates in tried[1:]] == [-3, -4, -5]
    assert found.best is not None and found.trials[found.best]["learning_rate"] == -4
    found, tried = searched(lambda i: None)
    assert found.best is None and found.note == "diverged at every learning rate tried"
    assert len(found.trials) == 9


def test_of_equal_scores_the_lower_learning_rate_is_taken():
    found, _ = searched(lambda i: abs(i) > 1)
    assert found.best is not None and found.trials[found.best]["learning_rate"] == -1


def test_the_trials_at_given_learning_rates_are_judged_as_they_are():
    trials = [{"learning_rate": rate, "loss": rate} for rate in (0.1, 0.3)]
    found = judged(trials, lambda trial: trial["loss"])
    assert found.trials == trials and found.best == 0 and "lowest" in found.note
    assert judged(trials[:1], lambda trial: trial["loss"]).note == ""
