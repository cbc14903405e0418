"""The folder of a comparison: the result of each optimizer as soon as it is known, and the report."""

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from nag_optax.compare.spec import load_spec, resolve
from nag_optax.train.folder import Folder

COMPARISON, TABLE, FIGURE = "comparison.json", "comparison.md", "comparison.png"
OPTIMIZERS = "optimizers"


class ComparisonFolder(Folder):
    """The files of one comparison."""

    kind = "comparison"
    resolve = staticmethod(resolve)
    load = staticmethod(load_spec)
    files = (COMPARISON, TABLE, FIGURE)
    folder = OPTIMIZERS
    entries = r"[\w-]+\.json(\.partial)?"

    def result(self, name: str) -> dict[str, Any] | None:
        """The result of an optimizer, if it is finished and the file is whole."""
        with suppress(OSError, ValueError):
            return json.loads(self._path_of(name).read_text())
        return None

    def write_result(self, name: str, result: dict[str, Any]) -> None:
        with self.writing():
            (self.path / OPTIMIZERS).mkdir(exist_ok=True)
        self.write(str(self._path_of(name).relative_to(self.path)), to_json(result))

    def _path_of(self, name: str) -> Path:
        return self.path / OPTIMIZERS / f"{name}.json"


def plain(value: Any) -> Any:
    """The same with lists for arrays, None for numbers that are not finite, and six digits for the others."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def to_json(value: Any) -> str:
    """Strict JSON, indented, with a list of numbers on one line."""
    text = json.dumps(plain(value), indent=1, allow_nan=False)
    numbers = r"\[\s+((?:(?:-?[\d.]+(?:e[-+]?\d+)?|null|true|false),?\s+)+)\]"
    return re.sub(numbers, lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
