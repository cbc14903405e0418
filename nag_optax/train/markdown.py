"""A table in Markdown."""

from collections.abc import Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], left: int = 1) -> str:
    """Padded, so that it reads well as it is; the first `left` columns are text, the rest numbers."""
    widths = [max(3, *(len(row[i]) for row in (head, *body))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return line(head) + line(rule) + "".join(map(line, body))
