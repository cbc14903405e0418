"""The notebooks as they are committed, and what their first cell installs. `.ci/run` executes them."""

import ast
import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXTRA = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["train"]
IMPORTED_AS = {"scikit-learn": "sklearn", "orbax-checkpoint": "orbax", "pillow": "PIL", "absl-py": "absl"}
NEEDED = {"nag_optax", *(IMPORTED_AS.get(name, name) for name in (line.split(">=")[0] for line in EXTRA))}
INSTALL = '%pip install -q "{source}[train]"'
WHEEL = "nag_optax-0.10.0-py3-none-any.whl"


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def test_they_are_committed_as_they_ran():
    """From first cell to last without an error, with outputs that say nothing of the machine."""
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"\]\((notebooks/[^)]+)\)", readme) == [f"notebooks/{path.name}" for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        assert path.stat().st_size < 400_000
        cells = code_cells(path)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        for output in outputs:
            assert output["output_type"] != "error" and output.get("name") != "stderr"
            text = json.dumps([output.get("text"), output.get("data", {}).get("text/plain")])
            assert not re.search(r"/(tmp|home|root|Users|usr|work)/|0x[0-9a-f]{6}", text)


def test_the_first_cell_is_the_same_in_all_and_knows_every_import():
    assert len({"".join(code_cells(path)[0]["source"]) for path in NOTEBOOKS}) == 1
    # What the core's dependencies bring, and Pillow, which Matplotlib brings.
    with_them = {"jax", "optax", "numpy", "PIL"}
    for path in NOTEBOOKS:
        for cell in code_cells(path)[1:]:
            for node in ast.walk(ast.parse("".join(cell["source"]))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names:
                    assert name in NEEDED | with_them, f"{path.name} imports {name}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """Where the notebook lies."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path / "notebooks"


@pytest.fixture
def installed(folder: Path, monkeypatch):
    """Runs the first cell where these modules are missing; returns what it would install."""

    def run(*missing: str) -> list[str]:
        sources: list[str] = []
        asked = set()

        def find_spec(name: str) -> str | None:
            asked.add(name)
            return None if name in missing else name

        monkeypatch.setattr("importlib.util.find_spec", find_spec)
        cell = "".join(code_cells(NOTEBOOKS[0])[0]["source"])
        assert cell.count(INSTALL) == 1
        exec(cell.replace(INSTALL, 'install(f"{source}[train]")'), {"install": sources.append})
        assert asked == NEEDED
        return sources

    return run


def clone(folder: Path) -> None:
    (folder.parent / "nag_optax").mkdir()
    (folder.parent / "nag_optax" / "__init__.py").touch()


def test_nothing_is_installed_where_all_is_there(folder, installed):
    clone(folder)
    (folder / WHEEL).touch()
    assert installed() == []


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_in_a_clone_whatever_is_missing_the_clone_is_installed(missing, folder, installed):
    clone(folder)
    assert installed(missing) == ["..[train]"]


def test_a_wheel_beside_the_notebook_goes_first(folder, installed):
    clone(folder)
    (folder / WHEEL).touch()
    assert installed("nag_optax") == [f"{WHEEL}[train]"]


@pytest.mark.parametrize("newest", [WHEEL, WHEEL.replace("10", "9")])
def test_of_several_wheels_the_newest(newest, folder, installed):
    for name in (WHEEL, WHEEL.replace("10", "9")):
        (folder / name).touch()
        os.utime(folder / name, (2, 2) if name == newest else (1, 1))
    assert installed("nag_optax") == [f"{newest}[train]"]


def test_another_project_around_the_notebook_is_not_installed(folder, installed):
    (folder.parent / "pyproject.toml").touch()
    with pytest.raises(ModuleNotFoundError, match="not installed: nag_optax, flax. Put nag_optax's wheel"):
        installed("nag_optax", "flax")
    (folder / WHEEL).touch()
    assert installed("nag_optax") == [f"{WHEEL}[train]"]
