"""The page "Does it pay?": what the results say, in words, with their numbers."""

import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import characters, report, schedules
from benchmarks.convex import large

PAGE = """\
# Does it pay?

Every number here comes from a run that you can repeat on a CPU. [Benchmarks](benchmarks.md) has the commands
and all tables. Each optimizer had the learning rate that was best in its own search on validation data.

| change | what it gave |
|---|---|
| AdamW → `laprop` | {laprop} lower loss on the character model, from as much memory |
| AdamW → `muon` | {muon} lower loss, and AdamW's final loss after {muon_steps} of {steps} steps |
| Optax's Muon → `muon` | {muon_gain} lower loss; {muon_time} of the time a step on larger matrices |
| a float32 state → one byte a number | a loss between {low_least} lower and {low_most} higher |
| AdamW → `snoo(adamw)`, on one machine | {snoo} lower loss, with twice the memory |
| AdamW → `ema_nesterov(adamw)` | {ema_nesterov} |
| AdamW → `gpa(adamw)` or `adan` | nothing at this length: {gpa} and {adan} |
| `optax.sgd` → exact momentum under decay | {exact} lower loss at momentum 0.97 on digits, nothing at 0.9 |
| momentum of 0.9 or 0.97 → one that rises to it | {rising} lower loss on digits, of {without} |
| the parameters → the iterate | nothing beyond chance on digits |
| JAXopt → `minimize` | {jaxopt} |
| scikit-learn's `lasso_path` → `minimize` under `vmap` | no: {path} times as long |

## A character model

![Validation loss over the steps: muon is lowest, laprop lies between it and AdamW.](characters.png)

A transformer of 115,136 parameters learns Python's standard library in {steps} steps.

{characters}

Two things make the gain of `laprop`. Nesterov's lookahead within Adam, which is NAdamW, gains {nadamw}.
Momentum behind the normalisation, and not within it, gains the rest.

A small model says little about a large one. What carries over is the way to compare: search each learning
rate, and look at more than one seed.

## Schedules and the iterate

`optax.sgd` puts its momentum before the learning rate. While the rate is constant, that is Nesterov's method.
While the rate decays, `nag` follows the method and `optax.sgd` does not.

{schedules}

Over ten seeds, a mean difference below two thirds of its standard deviation may be chance. Digits has 360
test images; a larger dataset may say something else.

## Convex problems of real size

{large}

Coordinate descent (skglm, scikit-learn) is made for these penalties. Take it where one of them is all you
need. `minimize` takes any smooth function and any prox. It runs on a GPU and under `vmap`, and it has
derivatives.
"""


def page(results: Path) -> str:
    """The whole page."""
    model, convex, muons = (
        json.loads((results / name).read_text())
        for name in ("characters.json", "large.json", "muon-cpu.json")
    )
    images = [json.loads(path.read_text()) for path in sorted(results.glob("schedules-*.json"))]
    return PAGE.format(
        characters=report.markdown_table(characters.COLUMNS, [characters.rows(model)], text=(0,)).strip(),
        schedules="\n".join(map(_schedules, images)).strip(),
        large=report.markdown_table(
            large.COLUMNS, [large.rows(entry) for entry in convex["problems"]]
        ).strip(),
        steps=model["steps"],
        muon_time=f"{_muon_time(muons):.2f}",
        jaxopt=_jaxopt(convex),
        path=f"{_path(convex):.0f}",
        **_gains(model),
        **_differences(images[0]),
    )


def _gains(model: dict[str, Any]) -> dict[str, Any]:
    """How much lower the mean test loss is."""
    found = characters.shown(model)
    mean = {name: statistics.fmean(run[-1] for run in entry["test"]) for name, entry in found.items()}
    gain = {name: mean[characters.BASELINE] - value for name, value in mean.items()}
    rows = {row[0].strip("`"): row for row in characters.rows(model)}
    ones = [mean[name] - mean[one] for name in mean if (one := characters.low(name)) in mean]
    return {
        "laprop": f"{gain['laprop']:.3f}",
        "nadamw": f"{gain['nadamw']:.3f}",
        "muon": f"{gain['muon']:.3f}",
        "muon_steps": rows["muon"][4],
        "muon_gain": f"{mean['optax.contrib.muon'] - mean['muon']:.3f}",
        "low_least": f"{max(ones):.3f}",
        "low_most": f"{-min(ones):.3f}",
        "snoo": f"{gain['snoo(adamw)']:.3f}",
        "ema_nesterov": _signed(gain["ema_nesterov(adamw)"]),
        "gpa": _signed(gain["gpa(adamw, mu_x=0.98)"]),
        "adan": _signed(gain["adan"]),
    }


def _differences(digits: dict[str, Any]) -> dict[str, str]:
    """At the end, of the pairs at a momentum of 0.9 and of 0.97."""
    mean = {}
    for entry in digits["pairs"]:
        first, second = (statistics.fmean(run[-1] for run in runs) for runs in entry["losses"].values())
        pair = entry["pair"]
        mean[pair["first"], pair["second"], pair["momentum"]] = second - first, first
    rising = [mean["nag", "sutskever", m] for m in schedules.MOMENTA]
    return {
        "exact": f"{mean['nag at p', 'optax.sgd', schedules.MOMENTA[1]][0]:.3f}",
        "rising": " and ".join(f"{-gain:.3f}" for gain, _ in rising),
        "without": " and ".join(f"{loss:.3f}" for _, loss in rising),
    }


def _path(convex: dict[str, Any]) -> float:
    """Time of a path in one call beside the one from solution to solution."""
    solvers, gap = convex["problems"][-1]["solvers"], f"{large.GAPS[-1]:g}"
    ours = solvers["nag_optax.minimize under vmap"][gap]["seconds"]
    return ours / solvers["sklearn lasso_path"][gap]["seconds"]


def _signed(gain: float) -> str:
    return f"{abs(gain):.3f} {'lower' if gain > 0 else 'higher'} loss"


def _muon_time(muons: dict[str, Any]) -> float:
    (entry,) = muons["entries"]
    return entry["methods"]["optax.contrib.muon"]["nag_optax_ratio"]


def _jaxopt(convex: dict[str, Any]) -> str:
    """Time of `minimize` beside JAXopt's, to the smaller gap."""
    gap = f"{large.GAPS[-1]:g}"
    pairs = [
        (solvers["nag_optax.minimize"], solvers["jaxopt.ProximalGradient"])
        for solvers in (entry["solvers"] for entry in convex["problems"])
        if "jaxopt.ProximalGradient" in solvers
    ]
    shares = [ours[gap]["seconds"] / theirs[gap]["seconds"] for ours, theirs in pairs if gap in theirs]
    times = " and ".join(f"{share:.2f}" for share in shares)
    missed = len(pairs) - len(shares)
    late = f"; JAXopt does not reach the gap on {missed} of {len(pairs)}" if missed else ""
    return f"{times} of the time on the large problems{late}"


def _schedules(result: dict[str, Any]) -> str:
    title = f"{result['dataset']}, {result['model']}, {result['epochs']} epochs"
    table = report.markdown_table(schedules.COLUMNS, [schedules.rows(result["pairs"])], text=(0, 1, 2))
    return f"{title}:\n\n{table}"
