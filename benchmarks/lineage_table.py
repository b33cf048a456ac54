"""The table of the lineage's rows: what each recipe is held to, the rows that there are, and both in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from mutoscope.benchmarks.study_file import Strict
from mutoscope.core.errors import InputError
from mutoscope.core.storage.atomic import make_folder, write_json, write_text
from mutoscope.registry.recipe import load_recipe
from mutoscope.registry.runs import read_json, recipe_hash

TABLE = Path(__file__).parent / "lineage.yaml"
RESULTS = Path(__file__).parent / "results"
COMMAND = "python -m mutoscope.benchmarks.lineage"
ARMS = ("trained", "untrained", "off")
CLIPS = 128
"""Of the test split, where the command does not say how many."""


class Entry(Strict):
    """What a recipe is held to. score: dotted, of a metric that the recipe names. off: overrides that switch the
    mechanism off, and without: what is lacking then. untrained: the roles that the floor has not learned: the denoiser's
    phase, or all. limit: seconds that it may train on two cores. found: by looking at a row; of one that failed its
    cause, as far as it is known."""

    score: str
    off: list[str] = Field(min_length=1)
    without: str
    untrained: Literal["denoiser", "all"] = "denoiser"
    limit: int = 300
    found: str = ""


def read_table(path: Path = TABLE) -> dict[str, Entry]:
    """The entries by the recipe's name or path. Raises InputError naming file, line and key of what is wrong first."""
    file = load_recipe(path, kind="study")
    try:
        return TypeAdapter(dict[str, Entry]).validate_python(file.data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        at = tuple(first["loc"])
        problem, allowed = str(first["msg"]).replace("Input should be", "must be"), None
        if first["type"] == "extra_forbidden":
            problem, allowed = "unknown key", list(Entry.model_fields)
        raise file.problem(at, problem, first.get("input"), allowed) from None


def chosen(table: Mapping[str, Entry], words: Sequence[str]) -> list[str]:
    """The recipes meant by numbers or names, in the order of the words. Raises InputError on a word that is neither."""
    found = []
    for word in words:
        meant = [name for name in table if name == word or Path(name).stem.partition("-")[0] == word]
        if not meant:
            raise InputError(field="recipe", problem="the table has no such recipe", got=word, allowed=list(table))
        found += meant
    return list(dict.fromkeys(found))


# In words


def rendered(rows: Mapping[str, Mapping[str, Any]], table: Mapping[str, Entry]) -> str:
    """The rows in words, as Markdown, and what has none."""
    recipes = {name: load_recipe(name) for name in table}
    left = [recipe.name for recipe in recipes.values() if recipe.name not in rows]
    stale = [r.name for r in recipes.values() if r.name in rows and rows[r.name]["recipe"] != recipe_hash(r)]
    lines = [
        "# The lineage, each recipe against itself",
        "",
        "Each recipe of `recipes/lineage/` trained as it stands, before it learned (an autoencoder kept as trained where "
        "it has a phase of its own), and with its mechanism switched off. One seed; intervals are 95% over clips, the "
        f"differences that decide paired by clip; {CLIPS} clips of the test split unless the command says more. "
        "A row holds where the trained model is better than both, by interval. "
        "Training seconds are of one thread on a machine that did other work too; those of the processor stand beside them "
        "where a recipe was trained in one go.",
        "",
        "| system | metric | trained | untrained | mechanism off | verdict | training, s | parameters | threads, processor "
        "| command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(rows):
        lines.append(line(rows[name]))
    for name in sorted(rows):
        if rows[name].get("found"):
            lines += ["", f"{name}: {rows[name]['found']}"]
    if stale:
        lines += ["", f"The recipe has changed since its row: {', '.join(stale)}."]
    if left:
        lines += ["", f"Not run yet: {', '.join(left)}."]
    return "\n".join([*lines, ""])


def line(row: Mapping[str, Any]) -> str:
    """A row of the table."""
    made = row["environment"]
    where = f"{made['threads']}, {made['processor']}"
    arrow = {"higher": "higher is better", "lower": "lower is better"}.get(str(row.get("better")), "")
    cells = [_cell(row.get(arm)) for arm in ARMS]
    off = f"{cells[2]} without {row['without']}"
    seconds = f"{row['trained seconds']:.0f}" if "trained seconds" in row else ""
    cpu = row.get("trained cpu seconds")
    seconds += "" if cpu is None else f" ({cpu:.0f} of the processor)"
    # What stood waiting for a busy machine does not count; two cores do in five minutes what takes one ten at most.
    limit = row.get("limit")
    over = f"; over {limit} s" if cpu is not None and limit and cpu > 2 * limit else ""
    size = f"{row['parameters']:,}" if "parameters" in row else ""
    said = (
        row["system"], f"{row['metric']}, {arrow}", cells[0], cells[1], off, row["verdict"] + over, seconds, size, where,
        f"`{row['command']}`",
    )  # fmt: skip
    return f"| {' | '.join(said)} |"


def _cell(cell: Mapping[str, float] | None) -> str:
    return "" if cell is None else f"{cell['value']:.3g} [{cell['low']:.3g}, {cell['high']:.3g}]"


# In files


def kept_rows(out: Path) -> dict[str, Any]:
    file = out / "lineage.json"
    return {row["system"]: row for row in read_json(file)["rows"]} if file.is_file() else {}


def keep(out: Path, rows: Mapping[str, Mapping[str, Any]], table: Mapping[str, Entry]) -> None:
    """Writes the rows, and the table beside them; the limit and what was found that the table has for a row stand in it."""
    entries = {load_recipe(name).name: entry for name, entry in table.items()}
    held = {name: {"limit": entry.limit, "found": entry.found} for name, entry in entries.items()}
    told = {name: {**rows[name], **held.get(name, {})} for name in sorted(rows)}
    make_folder(out)
    write_json(out / "lineage.json", {"command": COMMAND, "rows": list(told.values())})
    write_text(out / "lineage.md", rendered(told, table))
