"""A table in Markdown."""

from collections.abc import Container, Sequence


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]], text: Container[int] = (0,)) -> str:
    """The table, padded so that its source reads well. Text is aligned left, numbers right."""
    widths = [max(3, *(len(row[i]) for row in (head, *body))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i in text else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * w if i in text else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return line(head) + line(rule) + "".join(map(line, body))
