"""Pages that mkdocs makes from files outside of docs/, and formulas as MathML. No network is needed.

The first page is the README. Notebooks are shown with the outputs that they were committed with. A block of
the language `math` is TeX, which GitHub typesets too; browsers draw MathML without a script.
"""

import json
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OTHERS = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

HOW_TO_RUN = """
---

This page is `notebooks/{}`. In a clone, run it with `pip install ".[notebooks]" jupyterlab` and
`jupyter lab notebooks`.
"""


def on_config(config: MkDocsConfig) -> None:
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "formula", "format": formula})
    config.watch += [str(ROOT / name) for name in (*OTHERS, "notebooks")]


def on_files(files: Files, config: MkDocsConfig) -> None:
    for name, page in OTHERS.items():
        files.append(File.generated(config, page, content=of_the_root((ROOT / name).read_text())))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        content = notebook(json.loads(path.read_text())) + HOW_TO_RUN.format(path.name)
        files.append(File.generated(config, page, content=content))


def formula(source: str, *_: Any, **__: Any) -> str:
    """The parts between wide spaces, so that a narrow screen sets them below each other."""
    parts = [convert(part.strip(), display="block") for part in source.split(r"\qquad")]
    return '<div class="formula">{}</div>'.format("".join(parts))


def of_the_root(text: str) -> str:
    """With links as they are from docs/."""
    for name, page in OTHERS.items():
        text = text.replace(f"]({name})", f"]({page})")
    text = re.sub(r"\]\((notebooks/\w+)\.ipynb\)", r"](\1.md)", text)
    return text.replace("](docs/", "](").replace("](benchmarks/results/", "](")


def notebook(content: dict[str, Any]) -> str:
    """Markdown of a notebook and its outputs, without the cell that installs the package."""
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if source.startswith("# Installs"):
            continue
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(
                    f"![What the cell above draws](data:image/png;base64,{data['image/png'].strip()})"
                )
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"
