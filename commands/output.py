"""What verbs print: JSON where asked for, else a table that fits the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool, content: Any = None) -> None:
    """Prints rows as a table of some columns; with `as_json`, `content` (by default the rows) as JSON."""
    if as_json:
        show_json(rows if content is None else content)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    # A pipe has no width to fit into: a program that reads it is given whole lines.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 240).print(table)


def show_json(content: Any) -> None:
    """Prints JSON, one document."""
    print(json.dumps(content, indent=2, default=str, allow_nan=False))


def count(number: float | None) -> str:
    """1234567 as `1.23M`; nothing for what is not counted."""
    if number is None:
        return ""
    for unit, name in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
