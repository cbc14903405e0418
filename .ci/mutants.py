"""Do the tests bite? A random sample of mutants of the core, each with the tests of its file.

    pip install -e ".[test]" cosmic-ray
    python .ci/mutants.py               200 mutants; again: those that survived, or whose file has changed
    python .ci/mutants.py --number 20   the first 20 of the same sample

Cosmic Ray (https://cosmic-ray.readthedocs.io) makes them in a copy of the tree. It changes operators,
comparisons, numbers, conditions, loops and decorators. Texts stay as they are, and so do annotations and what
a `raise` says.
"""

import argparse
import ast
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "--no-header"]
CORE = ("acceleration", "optimizers", "transforms", "prox", "solver")
# These stop at once on floats and arrays, or say the same thing of the same numbers: no test of the tests.
TOO_EASY = re.compile(
    r".*Replace(Binary|Unary)Operator_.*_(RShift|LShift|BitOr|BitAnd|BitXor|Invert|Not)"
    r"|.*ReplaceComparisonOperator_(Is(Not)?_(?!Is)|(?!Is).*_Is)"
)
MINIMIZE = (
    "solver/test_loop",
    "solver/test_stopping",
    "solver/test_closed",
    "solver/test_implicit",
    "test_minimize",
    "benchmarks/test_convex",
)
OF_A_PROX = ("prox/test_operators", "prox/test_prox", "transforms/test_proximal")
OF_A_RULE = ("acceleration/momentum/test_rules", "acceleration/momentum/test_both_coefficients")
# The tests of a file or folder, beside the file of its name.
TESTS = {
    "acceleration/around": ("optimizers/test_snoo", "optimizers/test_gpa", "optimizers/test_ema_nesterov"),
    "acceleration/evaluation": ("acceleration/test_any_state",),
    "acceleration/iterate": ("acceleration/test_evaluation", "acceleration/test_any_state"),
    "acceleration/kernel": (
        "acceleration/test_restart",
        "optimizers/test_nag",
        "acceleration/test_evaluation",
    ),
    "acceleration/momentum": OF_A_RULE,
    "acceleration/momentum/fista": (*OF_A_RULE, "optimizers/test_fista"),
    "acceleration/momentum/restarting": ("acceleration/test_restart", *OF_A_RULE),
    "acceleration/step": ("acceleration/test_kernel", "acceleration/test_around", "optimizers/test_nag"),
    "optimizers": ("test_closed_ends",),
    "optimizers/backtracking": ("optimizers/test_fista", "optimizers/test_fista_in_wrappers"),
    "optimizers/fista": ("optimizers/test_fista_in_wrappers", "test_closed_ends"),
    "optimizers/moments": ("optimizers/test_nadam", "optimizers/test_adan", "optimizers/test_laprop"),
    "optimizers/snoo": ("optimizers/test_diloco", "test_closed_ends"),
    "prox": OF_A_PROX,
    "solver": MINIMIZE,
    "transforms/codes": ("transforms/test_low_memory",),
    "transforms/matrices": ("transforms/test_orthogonalize", "optimizers/test_muon"),
    "transforms/newton_schulz": ("transforms/test_orthogonalize",),
    "transforms/descent": ("optimizers/test_nag", "optimizers/test_adan", "optimizers/test_nadam"),
}


def tests_of(source: str) -> list[str]:
    """The tests of `nag_optax/FOLDER/NAME.py`, the most specific first, and its own examples."""
    module = Path(source).relative_to("nag_optax").with_suffix("")
    own = module.parent / f"test_{module.name}"
    others = TESTS.get(str(module)) or TESTS.get(str(module.parent), ())
    files = dict.fromkeys(f"tests/{name}.py" for name in (str(own), *others))
    return [source, *(name for name in files if (ROOT / name).is_file())]


def span(first: ast.expr, last: ast.expr) -> tuple[tuple[int, int], tuple[int, int]]:
    return (first.lineno, first.col_offset), (last.end_lineno or 0, last.end_col_offset or 0)


def is_code(code: str) -> Callable[[dict[str, Any]], bool]:
    """Whether a mutant changes what the program does: no annotation, no text, no lone `*`."""
    texts, products = [], []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.FunctionDef) and node.returns:
            texts.append(span(node.returns, node.returns))
        elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            texts.append(span(node.annotation, node.annotation))
        elif isinstance(node, ast.Raise) and node.exc:
            texts.append(span(node.exc, node.exc))
        elif isinstance(node, ast.JoinedStr):
            texts.append(span(node, node))
        elif isinstance(node, ast.BinOp):
            products.append((span(node.left, node.left)[1], span(node.right, node.right)[0]))

    def decide(mutant: dict[str, Any]) -> bool:
        start = tuple(mutant["start_pos"])
        if any(first <= start < last for first, last in texts):
            return False
        binary = "ReplaceBinaryOperator" in mutant["operator_name"]
        return not binary or any(first <= start < last for first, last in products)

    return decide


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def mutants(folder: Path) -> list[dict[str, Any]]:
    """All of them, in a random order that a change elsewhere does not change."""
    modules = json.dumps([f"nag_optax/{name}" for name in CORE])
    (folder / "mutants.toml").write_text(
        f'[cosmic-ray]\nmodule-path = {modules}\ntimeout = 1\ntest-command = "true"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    run(["cosmic-ray", "init", "mutants.toml", "mutants.sqlite"], folder)
    found = defaultdict(list)
    for line in run(["cosmic-ray", "dump", "mutants.sqlite"], folder).splitlines():
        for mutant in json.loads(line)[0]["mutations"]:
            found[mutant["module_path"]].append(mutant)
    kept = []
    for path, of_file in found.items():
        code = (folder / path).read_text()
        version, counts = hashlib.sha256(code.encode()).hexdigest(), is_code(code)
        for mutant in of_file:
            if counts(mutant) and not TOO_EASY.match(mutant["operator_name"]):
                name = {key: mutant[key] for key in ("module_path", "operator_name", "occurrence")}
                place = hashlib.sha256(json.dumps(name).encode()).hexdigest()
                kept.append((place, name | {"version": version}))
    return [mutant for _, mutant in sorted(kept, key=itemgetter(0))]


def tried(mutant: dict[str, Any], folder: Path, seconds: int) -> dict[str, Any]:
    path = mutant["module_path"]
    # Of the processor's time: a busy machine does not change it.
    command = f"ulimit -t {seconds}; exec {shlex.join([*PYTEST, '-x', '--tb=line', *tests_of(path)])}"
    place = [path, mutant["operator_name"], str(mutant["occurrence"])]
    said = json.loads(
        run(["cosmic-ray", "mutate-and-test", *place, shlex.join(["bash", "-c", command])], folder)
    )
    outcome = said["test_outcome"]
    if outcome == "killed" and not re.search(r"\d (failed|error)", said["output"]):
        outcome = "killed without an end"
    changed = [line for line in said["diff"].splitlines() if re.match(r"@@|[-+](?![-+])", line)]
    return mutant | {"outcome": outcome, "diff": changed, "output": said["output"][-2000:]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--number", type=int, default=200, help="how many mutants are drawn")
    parser.add_argument("--only", nargs="+", default=CORE, help="those of the sample in these packages")
    parser.add_argument("--seconds", type=int, default=200, help="of processor time for the tests of one")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "mutants", help="of the copy and results.jsonl"
    )
    options = parser.parse_args()
    copy, results = options.folder / "tree", options.folder / "results.jsonl"
    for name in ("nag_optax", "tests"):
        shutil.rmtree(copy / name, ignore_errors=True)
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    results.touch()

    sample = mutants(copy)[: options.number]
    sample = [mutant for mutant in sample if mutant["module_path"].split("/")[1] in options.only]
    known = map(json.loads, results.read_text().splitlines())
    done = {json.dumps({key: m[key] for key in sample[0]}): m for m in known}
    todo = [m for m in sample if done.get(json.dumps(m), {"outcome": "survived"})["outcome"] == "survived"]
    print(f"{len(todo)} of {len(sample)} mutants; first their tests without them", flush=True)
    if todo:
        # What fails without a mutant would kill all of them.
        run([*PYTEST, "-x", *sorted({name for m in todo for name in tests_of(m["module_path"])})], copy)
    for mutant in sample:
        key = json.dumps(mutant)
        if mutant in todo:
            done[key] = tried(mutant, copy, options.seconds)
            with results.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
        print(done[key]["outcome"], mutant["module_path"], *done[key]["diff"], sep="\n  ", flush=True)
    outcomes = Counter(done[json.dumps(mutant)]["outcome"] for mutant in sample)
    print(", ".join(f"{number} {outcome}" for outcome, number in outcomes.items()))


if __name__ == "__main__":
    main()
