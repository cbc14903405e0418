"""The package, its tests, benchmarks, pages and notebooks use what libraries document, and nothing else."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"nag_optax", "tests", "benchmarks"}
# JAX promises none of these modules. This one name has stayed in every version that is supported.
KEPT = {"jax.core.eval_jaxpr"}
WITHOUT_A_PROMISE = ("jax.experimental", "jax.extend", "jax.core", "jax.interpreters", "jax.lib")
OF_A_NAMEDTUPLE = {"_asdict", "_fields", "_make", "_replace"}


def sources() -> Iterator[tuple[str, str]]:
    """(place, code) of every file, every block of a page and every notebook."""
    for folder in ("nag_optax", "tests", "benchmarks", "docs", ".ci"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.S | re.M)
        yield str(page.relative_to(ROOT)), "".join(blocks)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        # Jupyter's own commands are no Python.
        yield str(path.relative_to(ROOT)), re.sub(r"^( *)%.*$", r"\1pass", code, flags=re.M)


def of_another(name: str) -> bool:
    root = name.partition(".")[0]
    return root not in OURS and root not in sys.stdlib_module_names


def private(name: str) -> bool:
    """Whether the dotted name of another library is none that it documents."""
    if name in KEPT:
        return False
    if any(name == module or name.startswith(f"{module}.") for module in WITHOUT_A_PROMISE):
        return True
    hidden = {part for part in name.split(".") if part[0] == "_" and not part.endswith("__")}
    return bool(hidden - OF_A_NAMEDTUPLE)


def dotted(node: ast.AST, imported: dict[str, str]) -> str | None:
    """The full name of `a.b.c` where `a` was imported from another library."""
    if isinstance(node, ast.Name):
        return imported.get(node.id)
    if isinstance(node, ast.Attribute) and (above := dotted(node.value, imported)):
        return f"{above}.{node.attr}"
    return None


def offences(code: str) -> set[str]:
    tree = ast.parse(code)
    imported, used = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            used |= {alias.name for alias in node.names}
            for alias in node.names:
                root = alias.name.partition(".")[0]
                imported[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used |= {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    imported = {short: name for short, name in imported.items() if of_another(name)}
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (name := dotted(node, imported)):
            used.add(name)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"[a-z]+(\.\w+)+", str(node.value)):
            # What importlib is given, and pytest's monkeypatch.
            used.add(str(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            # Which version it is, guessed by a name that it has.
            module, name = dotted(node.args[0], imported), node.args[1]
            guesses = node.func.id == "hasattr" or (node.func.id == "getattr" and len(node.args) == 3)
            if guesses and module and isinstance(name, ast.Constant):
                found.add(f"{node.func.id}({module}, {name.value!r})")
        elif isinstance(node, ast.Compare):
            names = {dotted(part, imported) or "" for part in ast.walk(node)}
            found |= {f"{name} compared" for name in names if name.endswith("__version__")}
    return found | {name for name in used if of_another(name) and private(name)}


def test_all_code_uses_public_names_alone():
    checked = {place: offences(code) for place, code in sources() if place != "tests/test_public_apis.py"}
    assert {"nag_optax/solver/minimize.py", "README.md", "notebooks/03_convex.ipynb"} <= set(checked)
    assert {place: sorted(found) for place, found in checked.items() if found} == {}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import jax.experimental", "jax.experimental"),
        ("import jax\njax.experimental.enable_x64()", "jax.experimental.enable_x64"),
        ("def f():\n    from jax.extend.core import jaxpr_as_fun", "jax.extend.core.jaxpr_as_fun"),
        ("from jax import core", "jax.core"),
        ("from optax._src import base", "optax._src.base"),
        ("import optax as o\no._src.base.f", "optax._src.base"),
        ("from flax import nnx\nnnx._graph", "flax.nnx._graph"),
        ("import importlib\nimportlib.import_module('jax._src.core')", "jax._src.core"),
        ("import jax\nhasattr(jax, 'enable_x64')", "hasattr(jax, 'enable_x64')"),
        ("import optax\ngetattr(optax.tree, 'norm', None)", "getattr(optax.tree, 'norm')"),
        ("import jax\nif jax.__version__ > '0.8': pass", "jax.__version__ compared"),
    ],
)
def test_what_is_not_public_is_noticed(code: str, name: str):
    assert name in offences(code)


def test_what_is_public_is_not():
    code = """
        import os
        import jax, optax
        from nag_optax._arrays import is_none
        from orbax.checkpoint import v1 as ocp
        hasattr(os, "sched_getaffinity"), optax.EmptyState._fields, jax.__version__, ocp.training.Checkpointer
        jax.config.update("jax_enable_x64", True)
        from jax.core import eval_jaxpr
    """
    assert offences("\n".join(line.strip() for line in code.splitlines())) == set()
