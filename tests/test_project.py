"""The project's own files agree with each other."""

import ast
import graphlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import nag_optax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_oldest_versions_tested_are_the_lower_bounds():
    pinned = dict(
        line.split("==")
        for line in (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    extras = PROJECT["optional-dependencies"]
    used = (extras[name] for name in ("train", "export", "parallel", "tensorboard", "test"))
    declared = [*PROJECT["dependencies"], *(bound for extra in used for bound in extra)]
    bounds = dict(d.split(">=") for d in declared if not d.startswith("nag_optax"))
    assert pinned.pop("jaxlib") == pinned["jax"]
    assert bounds == pinned


def test_the_index_of_the_reference_has_a_row_for_every_public_name():
    page = (ROOT / "docs" / "api" / "index.md").read_text()
    for name in nag_optax.__all__:
        assert getattr(nag_optax, name).__doc__
        if not name.endswith("State"):
            row = rf"^\| \[`{name}`\]\(\w+\.md(#nag_optax\.{name})?\) \|"
            assert re.search(row, page, re.M), f"docs/api/index.md has no row for {name}"


def test_no_name_of_the_core_loads_what_only_an_extra_brings():
    code = (
        "import sys, nag_optax\n"
        # The figures alone need an extra, and say so.
        "names = [getattr(nag_optax, name) for name in nag_optax.__all__ if name != 'plot']\n"
        "print({'flax', 'sklearn', 'tyro', 'rich', 'matplotlib', 'orbax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_commands_need_no_package_that_only_the_tests_bring():
    """JAX itself imports flatbuffers when a program is written, and does not depend on it."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"]]
    installed = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and name not in installed:
            installed.add(name)
            wanted += metadata.requires(name) or []
    absent = [
        module
        for module, names in metadata.packages_distributions().items()
        if module != "nag_optax" and not installed & set(map(canonicalize_name, names))
    ]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import jax, nag_optax.cli\n"
        "for name in nag_optax.cli._CARRY_OUT.values(): nag_optax.cli._imported(name)\n"
        "print(len(jax.export.export(jax.jit(abs))(1.0).serialize()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 0, done.stderr


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {PROJECT['version']}\n" in citation
    assert nag_optax.__version__ == PROJECT["version"]


def test_an_address_that_does_not_exist_yet_is_named_once():
    (address,) = PROJECT["urls"].values()
    if "OWNER" in address:  # The placeholder.
        files = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CITATION.cff", "mkdocs.yml")]
        for folder, kind in ((".github", "*.*ml"), ("docs", "*.md"), ("nag_optax", "*.py")):
            files += (ROOT / folder).rglob(kind)
        assert len(files) > 100
        assert [path for path in files if "OWNER" in path.read_text()] == []


def test_the_references_do_not_import_what_they_check():
    files = list((ROOT / "tests" / "reference").glob("*.py"))
    assert len(files) > 5
    for file in files:
        modules = re.findall(r"^\s*(?:from|import) ([\w.]+)", file.read_text(), re.M)
        assert {m.split(".")[0] for m in modules} <= {"collections", "typing", "numpy", "tests"}, file
        assert all(m.startswith("tests.reference.") for m in modules if m.startswith("tests")), file


def test_the_modules_of_the_commands_import_each_other_in_no_circle():
    """Neither for a type nor inside a function."""
    files = [
        path for package in ("train", "compare") for path in (ROOT / "nag_optax" / package).rglob("*.py")
    ]
    names = {
        path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in files
    }
    imports: dict[str, set[str]] = {}
    for path, name in names.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        # `from package import module` imports the module.
        found = [(f"{node.module}.{alias.name}", node.module) for node in nodes for alias in node.names]
        imports[name] = {whole if whole in names.values() else module or "" for whole, module in found}
    assert imports["nag_optax.train.spec"] > {"nag_optax.train.options", "nag_optax.train.registry"}
    graphlib.TopologicalSorter(imports).prepare()  # Raises a CycleError that names the circle.


def test_the_table_of_places_is_that_of_the_tree():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    places = re.findall(r"^\| `([\w./]+)` \|", text, re.M)
    assert len(places) == len(set(places)) > 10
    for place in places:
        assert (ROOT / place).is_dir() if place.endswith("/") else (ROOT / place).is_file(), place
    files = (ROOT / "nag_optax").iterdir()
    package = [path for path in files if path.suffix == ".py" or (path / "__init__.py").is_file()]
    parts = {f"nag_optax/{path.name}{'/' * path.is_dir()}" for path in package} - {"nag_optax/__init__.py"}
    assert parts == {place for place in places if place.startswith("nag_optax/")}


@pytest.mark.parametrize("name", ["run", "test"])
def test_each_set_up_command_of_the_readme_is_one_line(name: str):
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(rf"^<!-- {name} -->\n```bash\n(.*?)\n```$", readme, re.S | re.M)
    assert "\n" not in command and command.startswith("python -m pip install ")


def test_a_plugin_of_another_project_does_not_stop_the_tests(tmp_path: Path):
    """pytest-benchmark for one: it warns beside xdist, and a warning is an error here."""
    (tmp_path / "crowding.py").write_text(
        "import warnings\n\ndef pytest_configure():\n    warnings.warn('not of this project')\n"
    )
    facts = tmp_path / "crowding-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: crowding\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[pytest11]\ncrowding = crowding\n")
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_hosted_workflow_runs_every_stage():
    stages = set(re.findall(r"^([\w-]+)\(\) \{\n    step ", (ROOT / ".ci" / "run").read_text(), re.M))
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (matrix,) = re.findall(r"stage: \[(.*)\]", workflow)
    assert stages == {*matrix.split(", "), *re.findall(r"\.ci/run ([\w-]+)$", workflow, re.M)}
    assert {"newest", "newest-python", "oldest", "nightly"} <= stages
