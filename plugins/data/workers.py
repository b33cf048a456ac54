"""A small pool of child processes that decode: a crash or a hang costs one file, and the child is replaced."""

from __future__ import annotations

import json
import mmap
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import numpy as np

PROGRAM = (sys.executable, "-P", "-m", "mutoscope.plugins.data.decoder")
"""What a child runs."""

Made = TypeVar("Made")


class Broken(Exception):
    """Why a file cannot be used. passing: another time it might."""

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class Worker:
    """One child process, started when it is first needed, and the memory that it shares with this one.

    timeout: seconds without a sign of life after which it counts as hung. memory: most bytes of address space, 0 for no
    limit.
    """

    def __init__(self, timeout: float, memory: int) -> None:
        self.timeout, self.memory = timeout, memory
        self.child: subprocess.Popen[bytes] | None = None
        self.file = _memory_file()
        self.shared: mmap.mmap | None = None
        self.unread = b""

    def ask(self, job: dict[str, Any], size: int = 0) -> dict[str, Any]:
        """The child's answer; raises Broken. size: bytes of shared memory that it may fill."""
        self._reserve(size)
        try:
            self._tell(job)
            answer = self._answer()
        except (BrokenPipeError, EOFError):
            code = self._reap()
            name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            killed = code == -signal.SIGKILL  # by someone else, or by a system short of memory
            raise Broken(f"ends the process that decodes it ({name})", passing=killed) from None
        except TimeoutError:
            self.stop()
            raise Broken(f"takes longer than {self.timeout:g} s to decode", passing=True) from None
        if "damage" in answer:
            raise Broken(answer["damage"])
        return answer["ok"]

    def pixels(self, shape: tuple[int, ...]) -> np.ndarray:
        """What the child wrote, uint8; valid until the next job."""
        assert self.shared is not None
        return np.frombuffer(self.shared, np.uint8, count=int(np.prod(shape))).reshape(shape)

    def stop(self) -> None:
        """Ends the child; the next job starts another."""
        if self.child is not None:
            self.child.kill()
            self._reap()

    def _tell(self, job: dict[str, Any]) -> None:
        if self.child is None or self.child.poll() is not None:
            self._start()
        stdin = self._child().stdin
        assert stdin is not None
        stdin.write(json.dumps(job).encode() + b"\n")
        stdin.flush()

    def _child(self) -> subprocess.Popen[bytes]:
        assert self.child is not None
        return self.child

    def _reap(self) -> int:
        child = self._child()
        code = child.wait()
        for pipe in filter(None, (child.stdin, child.stdout)):
            with suppress(BrokenPipeError):  # of a job that was never read
                pipe.close()
        self.child, self.unread = None, b""
        return code

    def _start(self) -> None:
        if self.child is not None:
            self._reap()
        command = [*PROGRAM, str(self.file), str(self.memory)]
        # A session of its own: what a terminal interrupts is this process, which then ends its children.
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=(self.file,), start_new_session=True,
        )  # fmt: skip

    def _reserve(self, size: int) -> None:
        if self.shared is None or len(self.shared) < size:
            # An older map stays alive as long as an array looks at it.
            self.shared = None
            os.ftruncate(self.file, max(size, mmap.PAGESIZE))
            self.shared = mmap.mmap(self.file, max(size, mmap.PAGESIZE))

    def _answer(self) -> dict[str, Any]:
        """The next line that is no mere sign of life."""
        stdout = self._child().stdout
        assert stdout is not None
        pipe, waiting = stdout.fileno(), select.poll()
        waiting.register(pipe, select.POLLIN)
        deadline = time.monotonic() + self.timeout
        while True:
            line, found, rest = self.unread.partition(b"\n")
            if found:
                self.unread = rest
                answer = json.loads(line)
                if "alive" not in answer:
                    return answer
                deadline = time.monotonic() + self.timeout
                continue
            if not waiting.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            more = os.read(pipe, 1 << 16)
            if not more:
                raise EOFError
            self.unread += more


class Pool:
    """Children, and twice as many threads: while one waits for a child, another finishes what that child made before."""

    def __init__(self, workers: int, timeout: float = 30.0, memory: int = 0) -> None:
        self.count, self.timeout, self.memory = workers, timeout, memory
        self.workers = [Worker(timeout, memory) for _ in range(workers)]
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self.workers:
            self._free.put(worker)
        self._threads = ThreadPoolExecutor(2 * workers, thread_name_prefix="decoding")
        self._end = weakref.finalize(self, _end, self.workers, self._threads)

    def each(self, jobs: Iterable[Callable[[], Made]]) -> list[Made]:
        """What the jobs give, in order; they ask for a child when they need one."""
        return list(self._threads.map(lambda job: job(), jobs))

    @contextmanager
    def child(self) -> Iterator[Worker]:
        """One child for the while. What it made is gone when another has it."""
        worker = self._free.get()
        try:
            yield worker
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """Ends the children."""
        self._end()


def _end(workers: list[Worker], threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.stop()
        worker.shared = None
        if worker.file >= 0:
            os.close(worker.file)
            worker.file = -1


def _memory_file() -> int:
    """A file in memory, without a name, where the system has such; else one on disk, without a name too."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("mutoscope")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
