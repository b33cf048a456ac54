"""The journal: one JSON object per line, appended as a run goes, with no line lost, torn or twice after a resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mutoscope.core.storage.atomic import write_bytes
from mutoscope.core.storage.failpoints import reach


class Journal:
    """`metrics.jsonl` of a run, open for appending; a context manager.

    step: where the run resumes; records of a later `global_step` are what a lost stretch had logged, and are dropped,
    as is a last line that a kill has torn.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            kept = [record for record in read_journal(path) if record.get("global_step", 0) <= step]
            text = "".join(_line(record) for record in kept).encode()
            if text != path.read_bytes():
                write_bytes(path, text)
        self.file = open(path, "ab")  # noqa: SIM115  closed by __exit__

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one record and hands it to the system, so that a killed process loses none."""
        line = _line(record).encode()
        self.file.write(line[: len(line) // 2])
        reach("journal.in_line")
        self.file.write(line[len(line) // 2 :])
        self.file.flush()
        reach("journal.after_line")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records of a journal; a torn last line is left out, as is a line that is no JSON object."""
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def finite(value: Any) -> Any:
    """JSON has no infinities: they are written as the words nan, inf, -inf."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps({key: finite(value) for key, value in record.items()}, allow_nan=False) + "\n"
