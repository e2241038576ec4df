"""Text tables for terminals."""

from collections.abc import Sequence


def printable(text: str) -> str:
    """Returns `text` with control characters escaped, so that a terminal does not obey them."""
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Returns rows of cells as lines with aligned columns, two spaces apart.

    Args:
        rows: the header and the other rows, each with the same number of cells.
        left: number of columns, from the first, to align to the left; the others hold numbers and
            are aligned to the right.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
