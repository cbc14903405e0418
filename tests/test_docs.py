"""The README and the pages of docs/ are true: their code runs, their tests and their names exist."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.helpers import exhaustive

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
over_pages = pytest.mark.parametrize("page", [README, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Code, and the output that stands below it."""
    pattern = rf"^```{language}\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    return re.findall(pattern, page.read_text(), re.S | re.M)


# Each of these compiles for seconds.
LONG = {"diloco.md", "from-jaxopt.md", "methods.md"}


@pytest.mark.parametrize(
    "page",
    [exhaustive(page) if page.name in LONG else page for page in (README, *PAGES)],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_python_blocks_run(page: Path, capsys, monkeypatch, tmp_path, standard_promotion):
    """With the output below them, and the settings that a user begins with. Those of the README stand
    alone; a page is read from its top."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for code, expected in blocks(page, "python"):
        if page == README:
            names = {"__name__": "page"}
        try:
            exec(compile(code, page.name, "exec"), names)
        finally:
            jax.config.update("jax_enable_x64", False)
        assert capsys.readouterr().out == expected


def test_every_block_is_of_a_language_that_is_tested():
    """Or a formula, which mkdocs reads, or a sketch of one, which is of none."""
    for page in (README, *PAGES):
        fences = re.findall(r"^```(.*)$", page.read_text(), re.M)
        assert set(fences[::2]) <= {"python", "text", "bash", "diff", "math", ""}, page
        assert set(fences[1::2]) <= {""}, page


def test_no_line_of_code_is_cut():
    """At a width of 1280 pixels the site shows 90 characters of a block; formulas are drawn."""
    import nag_optax

    texts = [page.read_text() for page in (README, *PAGES)]
    rules = [value for value in vars(nag_optax.momentum).values() if callable(value)]
    names = [getattr(nag_optax, name) for name in nag_optax.__all__]
    texts += [inspect.getdoc(value) or "" for value in (*names, *rules)]
    fences = [found for text in texts for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)]
    code = [block for language, block in fences if language != "math"]
    assert len(code) > 100
    assert [line for found in code for line in found.splitlines() if len(line) > 90] == []


def commands(page: Path) -> Iterator[list[str]]:
    for code, _ in blocks(page, "bash"):
        for line in code.replace("\\\n", "").splitlines():
            yield from (shlex.split(part) for part in line.split("&&"))


@over_pages
def test_commands_exist(page: Path, monkeypatch):
    """Their options, too; they are not carried out."""
    from nag_optax.cli import parse
    from nag_optax.export.device import make_parser

    monkeypatch.chdir(ROOT)
    for words in commands(page):
        if words[0] == "taskset":
            words = words[3:]
        if words[0] == "nag-optax":
            parse(words[1:])
        elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            module = importlib.import_module(f"{words[2]}{'.__main__' * (words[2] == 'benchmarks.convex')}")
            if parser := getattr(module, "make_parser", None):
                assert isinstance(parser().parse_args(words[3:]), argparse.Namespace)
            elif hasattr(module, "parse"):
                assert isinstance(module.parse(words[3:]), argparse.Namespace)
        elif words[0] == "python" and words[1].endswith("/device.py"):
            assert isinstance(make_parser().parse_args(words[2:]), argparse.Namespace)
        else:
            runs = (
                words[0] in {"pip", "mkdocs"}
                or words[:2] == ["python", "-m"]
                and words[2] in {"pip", "pytest"}
            )
            assert runs, words


def test_the_command_line_page_has_every_option_and_optimizer():
    from nag_optax.parallel.options import ServeOptions, WorkOptions
    from nag_optax.train.options import ExportOptions
    from nag_optax.train.registry import OPTIMIZERS

    page = (DOCS / "command-line.md").read_text()
    kinds = (ServeOptions, WorkOptions, ExportOptions)
    for field in (field for kind in kinds for field in dataclasses.fields(kind)):
        assert re.search(rf"`--{field.name.replace('_', '-')}[` ]", page), field.name
    (row,) = re.findall(r"^\| `--optimizer` \| (.*) \|$", page, re.M)
    named = re.findall(r"`(\w+)`", row)
    assert sorted(named) == sorted(OPTIMIZERS)


def test_the_commands_of_the_command_line_page_follow_each_other(monkeypatch, tmp_path):
    """Each page has a folder of its own, where a command finds the files of the commands above it."""
    from nag_optax.cli import parse
    from nag_optax.compare.spec import ComparisonFolder
    from nag_optax.parallel.options import ServedFolder, WorkOptions
    from nag_optax.train.folder import RunFolder
    from nag_optax.train.options import EvaluateOptions, ExportOptions, PredictOptions

    monkeypatch.chdir(tmp_path)
    begun = []
    for words in commands(DOCS / "command-line.md"):
        if words[0] != "nag-optax":
            continue
        options = parse(words[1:])
        if isinstance(options, EvaluateOptions | ExportOptions | PredictOptions):
            assert options.run_dir in begun
            continue
        if isinstance(options, WorkOptions):
            assert options.token_file is not None and options.token_file.parent in begun
            continue
        kinds = {"compare": ComparisonFolder, "serve": ServedFolder}
        if options.resume:  # Its other options are in the folder.
            assert options.run_dir in begun, words
            continue
        folder = kinds.get(words[1], RunFolder).resolve(options).run_dir
        assert folder not in begun, words
        begun.append(folder)
        if (origin := getattr(options, "init_from", None)) is not None:
            assert origin in begun[:-1], words
    assert len(set(begun)) >= 8


def test_what_a_user_writes_on_the_page_is_taken_by_its_module(
    monkeypatch, tmp_path, capsys, standard_promotion
):
    from nag_optax.cli import run

    page = DOCS / "your-own-images.md"
    monkeypatch.chdir(tmp_path)
    *mine, _ = (code for code, _ in blocks(page, "python"))
    assert len(mine) == 3 and all(len(code.splitlines()) <= 20 for code in mine)
    (tmp_path / "mine.py").write_text("\n".join(mine))
    Image.fromarray(np.eye(20, dtype=np.uint8)).save("picture.png")
    for words in commands(page):
        assert words[0] == "nag-optax" and run(words[1:]) == 0
    printed = capsys.readouterr().out
    assert "name,class,row,column\npicture.png," in printed
    assert re.search(r"^mine:signs +learning rate \S+ +validation loss", printed, re.M)


def test_a_command_with_an_unknown_option_is_noticed(capsys):
    from nag_optax.cli import parse

    with pytest.raises(SystemExit) as ended:
        parse(["train", "--learning-speed", "1"])
    assert ended.value.code == 2 and "--learning-speed" in capsys.readouterr().err


def names_in(path: Path) -> set[str]:
    """`name` and `Class::name` of every test in a file."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {node.name}
            names |= {f"{node.name}::{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


COMING = ["coming-from.md", "from-jaxopt.md"]


def rows_with_a_test(name: str) -> list[str]:
    """Of the tables whose last column is one of tests; the page on JAXopt ends with others."""
    text = (DOCS / name).read_text().partition("## What it does not replace")[0]
    rows = re.findall(r"^\| (?!-)(.*) \|$", text, re.M)
    return [row for row in rows if not row.endswith("shown by") and not row.endswith("test")]


@pytest.mark.parametrize("name", ["reliability.md", "methods.md", *COMING])
def test_tests_that_a_page_names_exist(name: str):
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::([\w:]+))?`", (DOCS / name).read_text())
    assert len(named) >= 10
    for file, test in named:
        assert (ROOT / file).is_file(), file
        if test:
            assert test.split("::")[-1].startswith(("test_", "Test"))
            assert test in names_in(ROOT / file), f"{file}::{test}"


def test_every_row_of_coming_from_and_reliability_names_a_test():
    for name in ("reliability.md", *COMING):
        rows = rows_with_a_test(name)
        assert len(rows) >= 10
        for row in rows:
            assert re.search(r"`tests/[\w/:.]+` *$", row), row


@pytest.mark.parametrize(("name", "least"), [("coming-from.md", 15), ("from-jaxopt.md", 8)])
def test_the_calls_of_coming_from_are_calls_of_this_package(name: str, least: int):
    """The second column, with the numbers that the page's first block defines."""
    page = DOCS / name
    names: dict = {}
    exec(blocks(page, "python")[0][0], names)
    calls = re.findall(r"^`[^|]*` \| `([^|]*)` \|", "\n".join(rows_with_a_test(name)), re.M)
    assert len(calls) >= least
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for code in calls:
            assert eval(code, dict(names)) is not None, code


def undescribed(options: type) -> set[str]:
    """The fields without a docstring, which the reference leaves out."""
    (body,) = (
        node.body
        for node in ast.walk(ast.parse(inspect.getsource(options)))
        if isinstance(node, ast.ClassDef)
    )
    described = {
        ast.unparse(field.target)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    return {field.name for field in dataclasses.fields(options)} - described


def test_every_public_name_has_its_entry_in_the_reference():
    import nag_optax
    import nag_optax.compare
    import nag_optax.parallel
    import nag_optax.train.rows
    from nag_optax import export, momentum, plot, prox

    pages = "".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    # Where a module has the name of its function, the path of the module alone would show the module.
    paths = re.findall(r"^::: nag_optax\.([\w.]+)$", pages, re.M)
    folders = {"momentum": "acceleration/momentum", "prox": "prox"}
    modules = {
        (name, path.stem) for name, at in folders.items() for path in (ROOT / "nag_optax" / at).glob("*.py")
    }
    modules.add(("compare", "compare"))
    listed = []
    for path in paths:
        *above, last = path.split(".")
        assert (above[-1:] == [last]) == ((*above[:1], last) in modules), path
        listed.append(".".join(above if above[-1:] == [last] else [*above, last]))
    assert len(listed) == len(set(listed))
    for listed_name in listed:
        value = nag_optax
        for part in listed_name.split("."):
            value = getattr(value, part)
        assert value.__doc__
    assert undescribed(nag_optax.train.Options) == undescribed(nag_optax.compare.CompareOptions) == set()
    top = {name for name in nag_optax.__all__ if not inspect.ismodule(getattr(nag_optax, name))}
    assert top <= set(listed)
    namespaces = {name for name in nag_optax.__all__ if inspect.ismodule(getattr(nag_optax, name))}
    spaces = {"export": export, "momentum": momentum, "plot": plot, "prox": prox}
    assert namespaces == set(spaces)
    for name, module in spaces.items():
        public = {key for key, value in vars(module).items() if inspect.isfunction(value)}
        assert {f"{name}.{key}" for key in public} <= set(listed)


@pytest.mark.exhaustive
def test_the_commands_of_the_readme_classify_its_picture(monkeypatch, tmp_path, capsys, standard_promotion):
    """The output that stands below them, but for the probabilities, whose last digits are the machine's."""
    from sklearn.datasets import load_digits

    from nag_optax.cli import run

    monkeypatch.chdir(tmp_path)
    images, labels = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(images.reshape(-1, 8, 8), labels, strict=True)):
        if label in (3, 5, 8):
            path = Path("pictures") / str(label) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((15.9 * image).astype(np.uint8)).save(path)
    ((code, expected),) = (block for block in blocks(README, "bash") if block[1])
    for line in code.splitlines():
        capsys.readouterr()
        assert run(shlex.split(line)[1:]) == 0
    for found, known in zip(capsys.readouterr().out.splitlines(), expected.splitlines(), strict=True):
        assert found.split(",")[:2] == known.split(",")[:2]


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = README.read_text()
    assert len(text.split()) <= 900
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) >= 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_method_has_its_section():
    import nag_optax
    from nag_optax import momentum

    # The kernel and its readers have a page of their own. The last four turn other things into rules.
    other = {"accelerate", "scale_by_nesterov", "eval_params", "orthogonalize"}
    lifted = {"as_rule", "constant", "scheduled", "restarting"}
    methods = {name for name in nag_optax.__all__ if inspect.isfunction(getattr(nag_optax, name))} - other
    rules = {name for name, value in vars(momentum).items() if inspect.isfunction(value)} - lifted
    headings = re.findall(r"^### (.*)$", (DOCS / "methods.md").read_text(), re.M)
    titles = [title for heading in headings for title in heading.split(", ")]
    assert sorted(titles) == sorted(methods | {f"momentum.{rule}" for rule in rules} | {"prox"})


def test_the_pages_of_results_are_what_render_writes():
    from benchmarks import pays, render

    assert render.PAGE.read_text() == render.page()
    assert render.PAYS.read_text() == pays.page(render.RESULTS)
    for name in (
        "exactness.png",
        "comparison-digits.png",
        "staleness.png",
        "characters.png",
        "cifar-cnn.png",
    ):  # The site's figures are links to the measured ones.
        assert (DOCS / name).read_bytes() == (render.RESULTS / name).read_bytes()


def test_the_numbers_in_prose_are_those_of_the_results():
    from benchmarks import characters
    from benchmarks.render import RESULTS

    def read(name: str) -> dict:
        return json.loads((RESULTS / name).read_text())

    laprop, adamw = (
        f"{np.mean([run[-1] for run in characters.shown(read('characters.json'))[name]['test']]):.3f}"
        for name in ("laprop", characters.BASELINE)
    )
    resnet = read("cifar-resnet18.json")["optimizers"]["cosine"]["nag"]
    first = np.mean(resnet["p"]["loss"], 0)[0] - np.mean(resnet["x"]["loss"], 0)[0]
    constant = read("cifar-cnn.json")["optimizers"]["constant"]["nag"]
    later = np.mean(constant["p"]["loss"], 0) - np.mean(constant["x"]["loss"], 0)
    steps = {}
    for problem in read("convex.json")["problems"]:
        if problem["name"] == "logistic λ=1":
            steps = {name: reached[0]["iterations"] for name, reached in problem["solvers"].items()}
    ours, theirs = steps["nag_optax, backtracking"], steps["JAXopt FISTA, line search"]
    (entry,) = read("muon-cpu.json")["entries"]
    ratio = entry["methods"]["optax.contrib.muon"]["nag_optax_ratio"]
    assert abs(ratio - 2 / 3) < 0.03
    entries = [e for e in read("staleness.json")["entries"] if e["spread"] == 1]
    at_16 = {e["method"]: f"{np.mean(e['losses']['16']):.2f}" for e in entries}
    server = f"its loss is {at_16['DANA-Zero']}, where a shared momentum has {at_16['shared momentum']} and "
    measured = read("parallel.json")
    million = [
        e["updates_per_second"] for e in measured["rates"] if e["size"] == 10**6 and e["wire"] == "float32"
    ]
    runs = {(e["workers"], e["trouble"]): e for e in measured["runs"] if not e["ray"]}
    trouble = runs[3, True]
    accuracy = {
        entry["name"]: f"{100 * np.mean(entry['chosen']['test_accuracy']):.2f} %"
        for entry in read("comparison-cifar-cnn.json")["optimizers"]
    }
    pictures = (
        f"heavy ball ends at {accuracy['momentum']} of the test pictures, AdamW at {accuracy['adamw']}, "
        f"NAG at {accuracy['nag']} and Muon at {accuracy['muon']}."
    )
    device = read("device.json")
    iree, jax_ = (
        next(
            f"{e['megabytes']:.0f}"
            for e in device["steps"]
            if (e["model"], e["state"], e["engine"]) == ("cnn", "one byte", engine)
        )
        for engine in ("IREE", "JAX")
    )
    said = {
        DOCS / "device.md": [
            f"in {iree} MB of memory, where JAX needs {jax_}.",
            f"NumPy and the IREE runtime take {device['runtime_megabytes']:.0f} MB.",
        ],
        DOCS / "server.md": [
            f"{server}asynchronous SGD {at_16['asynchronous SGD']}.",
            f"takes {max(million):.0f} updates of a million numbers a second.",
            f"97 % on MNIST in {runs[None, False]['seconds_to_target']:.0f} seconds.",
            f"needs {trouble['seconds_to_target']:.0f} on the same two cores, and ends at",
            f"{100 * trouble['test_accuracy']:.2f} %. A server pays",
            f"update within {measured['recovery']['server_back']:.0f} seconds.",
        ],
        README: ["two thirds of the time on a CPU"],
        DOCS / "which-optimizer.md": [
            f"test loss of {laprop}, where AdamW ends at {adamw}.",
            "[two thirds of the time]",
            pictures,
        ],
        DOCS / "methods.md": [f"test loss of {laprop}, and at {adamw} [with AdamW]"],
        DOCS / "how-it-works.md": [
            f"loss of `nag` is {first:.3f} higher at p than at x.",
            f"With the cnn it is at most {later.max():.3f} at",
        ],
        DOCS / "from-jaxopt.md": [f"logistic regression {ours}, where JAXopt takes {theirs}."],
    }
    for page, sentences in said.items():
        text = " ".join(page.read_text().split())
        assert [sentence for sentence in sentences if sentence not in text] == [], page


def test_a_result_of_another_kind_is_named(tmp_path):
    from benchmarks import render

    facts = json.loads((render.RESULTS / "startup.json").read_text())
    (tmp_path / "other-thing.json").write_text(
        json.dumps({k: facts[k] for k in ("date", "machine", "versions")})
    )
    assert "- `other-thing.json`: " in render.page(tmp_path)
    assert "## Further results" not in render.page()
