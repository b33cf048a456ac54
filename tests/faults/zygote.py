"""A process that has imported everything and forks for every command, so that a trial costs its work and no start.

Reads `{"argv", "cwd", "env", "out"}` as lines of JSON and answers `{"pid"}`, then, when that command has ended,
`{"ended", "code"}`. It runs no backward pass itself: what autograd starts does not survive a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

IMPORTED = (
    "mutoscope.commands.train", "mutoscope.commands.sample", "mutoscope.commands.evaluate", "mutoscope.registry.runs",
    "mutoscope.benchmarks.scoring", "mutoscope.benchmarks.sampling", "torch._dynamo", "typer", "scipy.stats",
)  # fmt: skip


def warm(recipe: str) -> None:
    """Imports what the commands import and what they import on first use."""
    torch.set_num_threads(1)
    for name in IMPORTED:
        importlib.import_module(name)
    from mutoscope.registry.assembly import assemble
    from mutoscope.registry.catalog import Catalog
    from mutoscope.registry.recipe import load_recipe

    assemble(load_recipe(recipe), Catalog.load(), device="cpu")


def child(job: dict) -> None:
    """Becomes the command. Never returns."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(Path(job["out"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["mutoscope", *job["argv"]]
    for name, most in job.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (most, most))
    if "umask" in job:
        os.umask(job["umask"])
    from mutoscope.commands.main import main
    from mutoscope.core.storage import failpoints

    def sleep(seconds: float) -> None:
        (Path(job["out"]) / "asleep").touch()
        time.sleep(seconds)

    failpoints.time = SimpleNamespace(sleep=sleep)  # type: ignore[assignment]
    failpoints.arm(os.environ.get("MUTOSCOPE_FAULT", ""))
    main(job["argv"])


def serve() -> None:
    """Answers until standard input ends."""
    alive: set[int] = set()
    waiting = b""
    os.write(1, b'{"ready": true}\n')
    while True:
        if select.select([0], [], [], 0.01)[0]:
            more = os.read(0, 1 << 16)
            if not more:
                return
            waiting += more
        while b"\n" in waiting:
            line, _, waiting = waiting.partition(b"\n")
            job = json.loads(line)
            pid = os.fork()
            if pid == 0:
                child(job)
            alive.add(pid)
            os.write(1, json.dumps({"pid": pid}).encode() + b"\n")
        for pid in list(alive):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                alive.remove(pid)
                code = os.waitstatus_to_exitcode(status)
                os.write(1, json.dumps({"ended": pid, "code": code}).encode() + b"\n")


if __name__ == "__main__":
    warm(sys.argv[1])
    serve()
