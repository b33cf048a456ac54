"""Tests the tests: breaks one promise at a time in a copy of the package, and sees whether a test turns red.

    python tests/faults/mutants.py [NAME ...] [--list]

Each mutant is a small change of the source and the tests that must find it. A mutant that survives is an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns(
    ".git",
    ".typing",
    "__pycache__",
    "*.egg-info",
    "runs",
    ".pytest_cache",
    ".ruff_cache",
    ".import_linter_cache",
    "build",
)


@dataclass(frozen=True)
class Mutant:
    """file: of the source, where `old` stands once. tests: as pytest takes them, of which one must fail."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


STORAGE = "tests/faults/test_damaged_storage.py"
CORE = "tests/core/test_storage.py"
RESUME = "tests/faults/test_resume.py"
NAN = "tests/faults/test_not_finite.py"
MUTANTS = {
    "no rename": Mutant(
        "core/storage/atomic.py",
        "        os.replace(temporary, path)\n",
        "        path.write_bytes(data)\n        temporary.unlink()\n",
        (f"{STORAGE}::test_a_file_is_written_flushed_renamed_flushed",),
    ),
    "written in place": Mutant(
        "core/storage/atomic.py",
        '        with open(temporary, "wb") as file:\n',
        '        with open(path, "wb") as file:\n',
        (f"{CORE}::test_a_file_is_replaced_whole_or_stays",),
    ),
    "file not flushed": Mutant(
        "core/storage/atomic.py",
        "            os.fsync(file.fileno())\n",
        "",
        (f"{STORAGE}::test_a_file_is_written_flushed_renamed_flushed",),
    ),
    "weights not flushed": Mutant(
        "core/storage/checkpoint.py",
        '            flush_file(temporary / f"{part}.safetensors")\n',
        "",
        (f"{STORAGE}::test_a_checkpoint_is_written_flushed_renamed_flushed",),
    ),
    "folder not flushed": Mutant(
        "core/storage/atomic.py",
        '        reach("checkpoint.after_rename")\n        flush_folder(path.parent)\n',
        '        reach("checkpoint.after_rename")\n',
        (f"{STORAGE}::test_a_checkpoint_is_written_flushed_renamed_flushed",),
    ),
    "hashes not checked": Mutant(
        "core/storage/checkpoint.py",
        " or _sha256(file) != sha256:",
        ":",
        (f"{STORAGE}::test_a_thousand_damaged_checkpoints",),
    ),
    "seal not checked": Mutant(
        "core/storage/checkpoint.py",
        "        if _sealed((SEAL",
        "        if False and _sealed((SEAL",
        (f"{STORAGE}::test_a_thousand_damaged_checkpoints",),
    ),
    "offsets not checked": Mutant(
        "core/storage/weights.py",
        "    return offsets[1] - offsets[0] == math.prod(shape) * SIZES[dtype]",
        "    return True",
        (f"{STORAGE}::test_a_thousand_damaged_checkpoints", f"{STORAGE}::test_damaged_weights_of_a_part"),
    ),
    "pruned before the new one verifies": Mutant(
        "core/storage/checkpoint.py",
        "    verify(paths[-1])\n",
        "",
        (f"{STORAGE}::test_an_older_checkpoint_is_deleted_only_once_a_newer_one_verifies",),
    ),
    "newest is not verified": Mutant(
        "core/storage/checkpoint.py",
        "        try:\n            verify(path)\n        except InputError as bad:\n            report",
        "        try:\n            pass\n        except InputError as bad:\n            report",
        (f"{STORAGE}::test_the_newest_that_verifies_is_found",),
    ),
    "mode of the temporary file": Mutant(
        "core/storage/weights.py",
        "        path.chmod(mode)\n",
        "",
        (f"{STORAGE}::test_modes_are_those_of_the_umask",),
    ),
    "space not looked at": Mutant(
        "core/storage/atomic.py",
        "    if free < need:",
        "    if False:",
        (f"{CORE}::test_space_is_needed_and_a_fifth_more",),
    ),
    "EMA counter dropped": Mutant(
        "core/training/state.py",
        '        turns.average.count = rest["average"]["count"]\n',
        "",
        (f"{RESUME}::test_the_average_counts_on",),
    ),
    "EMA dropped": Mutant(
        "core/training/state.py",
        '            weight.copy_(_like(parts["average"][name], weight))\n',
        "            pass\n",
        (f"{RESUME}::test_resumed_at_a_step_it_ends_in_the_same_bits[edges-plain]",),
    ),
    "optimizer dropped": Mutant(
        "core/training/state.py",
        '        _load_optimizer(player, parts[f"optimizer.{turn}"], rest[turn])\n',
        "        pass\n",
        (f"{RESUME}::test_resumed_at_a_step_it_ends_in_the_same_bits[edges-plain]",),
    ),
    "epoch in the seed ignored": Mutant(
        "core/dataset.py",
        'key(seed, "order", epoch)',
        'key(seed, "order")',
        (f"{RESUME}::test_clips_come_in_the_same_order_from_every_batch_on", "tests/core/test_randomness.py"),
    ),
    "resumed from the first batch": Mutant(
        "core/training/run.py",
        "feed.from_step(self.position.step)",
        "feed.from_step(0)",
        (f"{RESUME}::test_resumed_at_a_step_it_ends_in_the_same_bits[edges-plain]",),
    ),
    "step not in the draws": Mutant(
        "core/randomness.py",
        "        keys = [key(self.seed, self.purpose, self.step, clip, what) for clip in self.clips]",
        "        keys = [key(self.seed, self.purpose, clip, what) for clip in self.clips]",
        ("tests/core/test_randomness.py",),
    ),
    "average in the raw weights' place": Mutant(
        "core/training/run.py",
        "        if turns is not None:\n            parts[\"objective\"]",
        "        if turns is not None:\n            if turns.average is not None:\n                turns.average.install()\n"
        "            parts[\"objective\"]",
        (f"{RESUME}::test_how_often_it_is_saved_changes_nothing",),
    ),
    "not finite not looked for": Mutant(
        "core/training/turns.py",
        '        if bool(torch.isfinite(norm + sums["loss"])):',
        "        if True:",
        (f"{NAN}::test_it_stops_in_that_step_and_names_the_place",),
    ),
    "torn lines kept": Mutant(
        "core/storage/journal.py",
        "            if text != path.read_bytes():\n",
        "            if False:\n",
        (f"{CORE}::test_a_journal_loses_and_repeats_no_line",),
    ),
    "no lock": Mutant(
        "core/storage/lock.py",
        "                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "",
        (f"{CORE}::test_a_folder_is_locked_once",),
    ),
    "aliases not counted": Mutant(
        "registry/documents.py",
        "        node, size = known\n        self.spend(size)\n",
        "        node, size = known\n",
        ("tests/registry/test_documents.py",),
    ),
    "data not compared": Mutant(
        "registry/runs.py",
        '    if before_run.get("data", data) != data:',
        "    if False:",
        ("tests/faults/test_changed_data.py",),
    ),
}  # fmt: skip


def run(name: str, folder: Path) -> dict[str, object]:
    """Puts the mutant into the copy, runs its tests, takes it out again. Gives what came of it."""
    mutant = MUTANTS[name]
    file, start = folder / mutant.file, time.monotonic()
    source = file.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        return {"mutant": name, "outcome": f"stale: its place stands {source.count(mutant.old)} times in {mutant.file}"}
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *mutant.tests]
        environment = {**os.environ, "PYTHONPATH": str(folder.parent), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("MUTOSCOPE_TRIALS", None)  # these failures are wanted
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    finally:
        file.write_text(source, encoding="utf-8")
    outcome = {0: "survived", 1: "found"}.get(done.returncode, f"error: pytest ended with {done.returncode}")
    if outcome.startswith("error"):
        outcome += f": {done.stdout[-300:]}{done.stderr[-300:]}"
    return {"mutant": name, "outcome": outcome, "seconds": round(time.monotonic() - start, 1)}


def main(names: list[str]) -> int:
    """Runs some mutants, by default all. Gives 1 where one was not found."""
    if "--list" in names:
        print("\n".join(f"{name}: {mutant.file}" for name, mutant in MUTANTS.items()))
        return 0
    if unknown := [name for name in names if name not in MUTANTS]:
        print(f"there is no mutant {unknown[0]!r}; --list shows all", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(ROOT, Path(place) / "mutoscope", ignore=IGNORED))
        seen = subprocess.run(
            [sys.executable, "-c", "import mutoscope; print(mutoscope.__file__)"],
            env={**os.environ, "PYTHONPATH": place}, cwd=place, capture_output=True, text=True,
        )  # fmt: skip
        assert seen.stdout.startswith(place), f"the copy is not what is imported: {seen.stdout}{seen.stderr}"
        results = []
        for name in names or MUTANTS:
            results.append(run(name, folder))
            print(json.dumps(results[-1]), flush=True)
    found = sum(result["outcome"] == "found" for result in results)
    print(f"{found} of {len(results)} mutants found")
    return 0 if found == len(results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
