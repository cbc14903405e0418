"""The page "Does it pay?": what the results say, in words, with their numbers."""

import json
import math
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import characters, cifar, report, schedules
from benchmarks.convex import large

SURE = 3
"""Standard errors; a mean difference of fewer may be chance."""

_HEADINGS = {
    "characters": "a-character-model",
    "cifar-cnn": "cifar-10",
    "cifar-resnet18": "cifar-10",
    "schedules": "schedules-and-the-iterate",
    "large": "convex-problems-of-real-size",
}
"""Where the page shows a result, by the beginning of its file's name."""

PAGE = """\
# Does it pay?

Every number here comes from a run that you can repeat on a CPU. [Benchmarks](benchmarks.md) has the
commands and explains the columns. Each optimizer had the learning rate that was best in its own search on
validation data. Runs of the same seed are compared. "Beyond chance" means more than three standard errors.

| change | what it gave |
|---|---|
| AdamW → `laprop` | {laprop} on the character model, with the same memory |
| AdamW → `muon` | {muon}, and AdamW's final loss after {muon_steps} of {steps} steps |
| Optax's Muon → `muon` | {muon_gain}; {muon_time} of the time a step on larger matrices |
| `muon` → the same with AdamW for embeddings and head | {rest} |
| a float32 state → one byte a number | a loss between {low_least} lower and {low_most} higher |
| AdamW → `snoo(adamw)`, on one machine | {snoo}, with twice the memory |
| AdamW → `ema_nesterov`, `gpa` or `adan` | {ema_nesterov}; {gpa}; {adan} |
| `laprop` → `snoo`, `ema_nesterov` or `gpa` around it | {laprop_snoo}; {laprop_ema}; {laprop_gpa} |
| AdamW → `laprop`, on CIFAR-10 | {cifar_laprop} |
| AdamW → `muon`, on CIFAR-10 | {cifar_muon}, and a step {cifar_muon_time} times as long |
| `optax.sgd` or heavy ball → `nag`, on CIFAR-10 | {cifar_sgd}; {cifar_ball} |
| `optax.sgd` → `nag`, both at momentum 0.97 and a decaying rate | {exact} |
| a momentum of 0.9 → one that rises to 0.9 | {rising} |
| `nag` evaluated at the parameters → at the iterate, at a constant rate | {cifar_iterate} on CIFAR-10 |
| JAXopt → `minimize` | {jaxopt} |
| scikit-learn's `lasso_path` → `minimize` under `vmap` | {path} times the time |

## A character model

![Validation loss over the steps: muon is lowest, laprop lies between it and AdamW.](characters.png)

A transformer of 115,136 parameters learns Python's standard library in {steps} steps
([details](benchmarks.md#a-small-character-model)).

{characters}

`laprop` gains by two things. Nesterov's lookahead within Adam, which is NAdamW, gains {nadamw}.
Momentum behind the normalisation, not within it, gains the rest.

A small model says little about a large one. Compare in the same way on yours: search each learning rate, and
look at more than one seed.

## CIFAR-10

![Test loss over the epochs, with a cosine and with a constant rate. Dotted lines: at p.](cifar-cnn.png)

{cifar_facts}
[Details](benchmarks.md#cifar-10-from-a-folder-cnn)

{cifar}

Most of these differences are small. This is how they came out in runs of the same seed:

{cifar_changes}

With the cosine, Muon learns fastest, and overfits these few pictures. Its loss is lowest after epoch
{muon_epoch}, at {muon_least}, and ends at {muon_last}. Its accuracy is still the highest. For a constant rate
the search chose a far lower one. Muon is then slow at first, and ends with the lowest loss by a little.

The decay of the rate matters more. From a constant rate to the cosine, `nag` ends with {cifar_decay}.

A gradient is taken at the parameters p, and `eval_params` gives the iterate x. This table shows how much
higher the test loss is at p than at x:

{cifar_iterates}

{resnet_facts}
[Details](benchmarks.md#cifar-10-from-a-folder-resnet18)

{resnet}

This training is short and has few pictures, so it shows how fast each optimizer begins. AdamW and `laprop`
lead. AdamW → `laprop` gives {resnet_laprop}, and `optax.sgd` → `nag` gives
{resnet_sgd}. In the first epoch the iterate is ahead:

{resnet_iterates}

## Schedules and the iterate

`optax.sgd` puts its momentum before the learning rate. While the rate is constant, that is Nesterov's method.
While the rate decays, `nag` follows the method and `optax.sgd` does not
([details](benchmarks.md#schedules-and-the-iterate-digits-mlp-60-epochs)).

{schedules}

Over ten seeds, a mean difference below its standard deviation may be chance. Digits has 360 test images. On
MNIST the momentum still rises during most of the run.

## Convex problems of real size

Each time is one call of a solver, without compilation ([details](benchmarks.md#large-convex-problems)).

{large}

Coordinate descent (skglm, scikit-learn) is made for these penalties. Take it where one of them is all you
need. `minimize` takes any smooth function and any prox. It runs on a GPU and under `vmap`, and it has
derivatives.
"""


def page(results: Path) -> str:
    """The whole page."""
    model, pictures, resnet, convex, muons = (
        json.loads((results / f"{name}.json").read_text())
        for name in ("characters", "cifar-cnn", "cifar-resnet18", "large", "muon-cpu")
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
        **_on_pictures(pictures),
        **_on_resnet(resnet),
        **_on_schedules(images),
    )


def link(name: str) -> str | None:
    """The place on the page that shows the result of this file, if there is one."""
    places = (anchor for start, anchor in _HEADINGS.items() if name.startswith(start))
    return next((f"does-it-pay.md#{anchor}" for anchor in places), None)


def verdict(before: Sequence[float], after: Sequence[float]) -> str:
    """How much lower the loss became in runs of the same seeds, in words."""
    gain, sure = _gain([b - a for b, a in zip(before, after, strict=True)])
    words = f"{abs(gain):.3f} {'lower' if gain > 0 else 'higher'} loss"
    return words if sure else f"nothing beyond chance ({words})"


def points(before: Sequence[float], after: Sequence[float]) -> str:
    """The same of an accuracy in [0, 1]."""
    gain, sure = _gain([100 * (a - b) for b, a in zip(before, after, strict=True)])
    words = f"{abs(gain):.1f} points {'higher' if gain > 0 else 'lower'} accuracy"
    return words if sure else f"nothing beyond chance ({words})"


def _gain(gains: Sequence[float]) -> tuple[float, bool]:
    """The mean, and whether it is more than chance."""
    mean, error = statistics.fmean(gains), statistics.stdev(gains) / math.sqrt(len(gains))
    return mean, abs(mean) > SURE * error


def _gains(model: dict[str, Any]) -> dict[str, Any]:
    """Of the character model."""
    found = characters.shown(model)
    loss = {name: [run[-1] for run in entry["test"]] for name, entry in found.items()}
    mean = {name: statistics.fmean(runs) for name, runs in loss.items()}
    rows = {row[0].strip("`"): row for row in characters.rows(model)}
    ones = [mean[name] - mean[one] for name in mean if (one := characters.low(name)) in mean]
    pairs = {
        "laprop": (characters.BASELINE, "laprop"),
        "muon": (characters.BASELINE, "muon"),
        "muon_gain": ("optax.contrib.muon", "muon"),
        "rest": ("muon", "muon, adamw for the rest"),
        "snoo": (characters.BASELINE, "snoo(adamw)"),
        "ema_nesterov": (characters.BASELINE, "ema_nesterov(adamw)"),
        "gpa": (characters.BASELINE, "gpa(adamw, mu_x=0.98)"),
        "adan": (characters.BASELINE, "adan"),
        "laprop_snoo": ("laprop", "snoo(laprop)"),
        "laprop_ema": ("laprop", "ema_nesterov(laprop)"),
        "laprop_gpa": ("laprop", "gpa(laprop, mu_x=0.98)"),
    }
    return {
        **{key: verdict(loss[before], loss[after]) for key, (before, after) in pairs.items()},
        "nadamw": f"{mean[characters.BASELINE] - mean['nadamw']:.3f}",
        "muon_steps": rows["muon"][4],
        "low_least": f"{max(ones):.3f}",
        "low_most": f"{-min(ones):.3f}",
    }


CHANGES = {
    "`optax.sgd` → `nag`": ("optax.sgd", "x", "nag", "x"),
    "heavy ball → `nag`": ("heavy ball", "x", "nag", "x"),
    "AdamW → `laprop`": ("adamw", "x", "laprop", "x"),
    "AdamW → `muon`": ("adamw", "x", "muon", "x"),
    "AdamW → `nag`": ("adamw", "x", "nag", "x"),
    "`nag` at p → at x": ("nag", "p", "nag", "x"),
    "`laprop` at p → at x": ("laprop", "p", "laprop", "x"),
}
"""Optimizer and iterate, before and after."""


def _short(words: str) -> str:
    """A verdict for a column whose heading says what was measured."""
    return words.replace("nothing beyond chance", "chance").replace(" loss", "").replace(" accuracy", "")


def _on_pictures(result: dict[str, Any]) -> dict[str, str]:
    """Of CIFAR-10, under each decay."""

    def ends(decay: str, name: str, at: str, what: str) -> list[float]:
        return [run[-1] for run in result["optimizers"][decay][name][at][what]]

    def change(decay: str, name: str, say: Any = verdict, what: str = "loss") -> str:
        before, at_before, after, at_after = CHANGES[name]
        return say(ends(decay, before, at_before, what), ends(decay, after, at_after, what))

    cosine, constant = cifar.DECAYS
    table = [
        (name, decay, _short(change(decay, name)), _short(change(decay, name, points, "accuracy")))
        for decay in cifar.DECAYS
        for name in CHANGES
    ]
    columns = ("change", "rate", "test loss", "test accuracy")
    muon = cifar.means(result["optimizers"][cosine]["muon"]["x"]["loss"])
    return {
        "cifar_facts": textwrap.fill(cifar.facts(result), 110),
        "cifar": report.markdown_table(cifar.COLUMNS, cifar.rows(result)).strip(),
        "cifar_changes": report.markdown_table(columns, [table], text=range(4)).strip(),
        "cifar_iterates": _iterates(result),
        "cifar_sgd": change(cosine, "`optax.sgd` → `nag`"),
        "cifar_ball": change(cosine, "heavy ball → `nag`"),
        "cifar_laprop": change(cosine, "AdamW → `laprop`"),
        "cifar_muon": f"{change(cosine, 'AdamW → `muon`', points, 'accuracy')}, "
        + change(cosine, "AdamW → `muon`"),
        "cifar_muon_time": f"{result['milliseconds']['muon'] / result['milliseconds']['adamw']:.1f}",
        "cifar_iterate": change(constant, "`nag` at p → at x"),
        "cifar_decay": verdict(ends(constant, "nag", "x", "loss"), ends(cosine, "nag", "x", "loss")),
        "muon_epoch": str(1 + muon.index(min(muon))),
        "muon_least": f"{min(muon):.3f}",
        "muon_last": f"{muon[-1]:.3f}",
    }


def _on_resnet(result: dict[str, Any]) -> dict[str, str]:
    """Of the ResNet-18, under a cosine."""
    found = result["optimizers"][cifar.DECAYS[0]]
    ends = {name: [run[-1] for run in entry["x"]["loss"]] for name, entry in found.items()}
    return {
        "resnet_facts": textwrap.fill(cifar.facts(result), 110),
        "resnet": report.markdown_table(cifar.COLUMNS, cifar.rows(result)).strip(),
        "resnet_iterates": _iterates(result),
        "resnet_laprop": verdict(ends["adamw"], ends["laprop"]),
        "resnet_sgd": verdict(ends[cifar.BASELINE], ends["nag"]),
    }


def _iterates(result: dict[str, Any]) -> str:
    return report.markdown_table(cifar.iterate_columns(result), [cifar.iterate_rows(result)]).strip()


def _on_schedules(images: list[dict[str, Any]]) -> dict[str, str]:
    """What a change gave at the end of a cosine, from one of a pair to the other."""

    def gain(first: str, second: str, momentum: float, before: str, after: str) -> str:
        pair = schedules.Pair(first, second, "cosine", momentum)._asdict()
        ends = {
            result["dataset"]: {name: [run[-1] for run in runs] for name, runs in found["losses"].items()}
            for result in images
            for found in result["pairs"]
            if found["pair"] == pair
        }
        return "; ".join(f"{verdict(e[before], e[after])} on {_NAMES[name]}" for name, e in ends.items())

    return {
        "exact": gain("nag at p", "optax.sgd", 0.97, "second", "first"),
        "rising": gain("nag", "sutskever", 0.9, "first", "second"),
    }


_NAMES = {"digits": "digits", "mnist": "MNIST"}


def _path(convex: dict[str, Any]) -> float:
    """Time of a path in one call beside the one from solution to solution."""
    solvers, gap = convex["problems"][-1]["solvers"], f"{large.GAPS[-1]:g}"
    ours = solvers["nag_optax.minimize under vmap"][gap]["seconds"]
    return ours / solvers["sklearn lasso_path"][gap]["seconds"]


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
