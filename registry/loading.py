"""Loading of plugins, each isolated from the others: a broken one is recorded and everything else works.

A plugin goes through three stages: *import* its code, *register* its hooks, *offer* its parts. Whatever goes wrong in
one of them costs that plugin alone. The built-in plugins load first and strictly, because a broken one is a bug.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from mutoscope.core.component import NAME, Component
from mutoscope.core.errors import InputError
from mutoscope.registry.checking import check_definition
from mutoscope.registry.hookspecs import Hooks

GROUP = "mutoscope"
"""The entry-point group of plugins, and the name of the distribution whose plugins are built in."""
PATIENCE = 5.0
"""Seconds that a plugin of others may take to load."""
ROLES = (
    "data",
    "autoencoder",
    "patchifier",
    "conditioner",
    "denoiser",
    "objective",
    "sampler",
    "discriminator",
    "tower",
    "writer",
    "metric",
)
"""The words of all roles."""

Stage = Literal["import", "register", "offer"]


@dataclass(frozen=True)
class Plugin:
    """A plugin that loaded. origin: its distribution, or the path of its file. offered: its parts."""

    name: str
    version: str
    origin: str
    offered: tuple[type[Component], ...]


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that did not load. stage: where it failed. origin: its distribution, or the path of its file."""

    name: str
    version: str
    stage: Stage
    error: BaseException
    origin: str = ""

    @property
    def reason(self) -> str:
        """The exception on one line."""
        try:
            text = repr(self.error)
        except Exception:  # its own code may be what is broken
            text = type(self.error).__name__
        text = " ".join(text.split())
        return text if len(text) <= 300 else text[:297] + "..."

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        return f"plugin {self.name}{version} failed to {self.stage}: {self.reason}"


class Loader:
    """Loads plugins one after another and remembers what each offered or why it failed.

    strict: raise a failure instead of recording it.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.plugins: list[Plugin] = []
        self.failures: list[PluginFailure] = []
        self._owners: dict[tuple[str, str], str] = {}
        self._files: set[Path] = set()

    def load_installed(self, entries: Iterable[EntryPoint] | None = None) -> None:
        """Every plugin of the environment, built-in ones first, then by name. entries: these instead."""
        found = entry_points(group=GROUP) if entries is None else entries
        for entry in sorted(found, key=lambda e: (not _built_in(e), e.name, _distribution(e))):
            version = entry.dist.version if entry.dist is not None else ""
            self._load(entry.name, version, _distribution(entry), entry.load, built_in=_built_in(entry))

    def load_file(self, path: Path) -> None:
        """A plugin that is one file. Raises InputError if there is no such file; a second load of it does nothing."""
        try:
            found = Path(os.path.expanduser(path)).resolve()
            usable = found.suffix == ".py" and found.is_file()
        except (OSError, ValueError, RuntimeError):  # a name that no file can have, links in a circle
            found, usable = path, False
        if not usable:
            raise InputError(problem="no such plugin file; one is a .py file", got=str(path))
        path = found
        if path not in self._files:
            self._files.add(path)
            self._load(path.stem, "", str(path), lambda: _import_file(path))

    def _load(self, name: str, version: str, origin: str, find: Callable[[], Any], built_in: bool = False) -> None:
        stage: Stage = "import"
        try:
            with _patience(None if built_in else PATIENCE), contextlib.redirect_stdout(sys.stderr):
                plugin = find()
                stage = "register"
                manager = _register(plugin, name)
                stage = "offer"
                offered = self._accept(manager.hook.mutoscope_components())
        except (Exception, SystemExit) as error:
            if self.strict or built_in:
                error.add_note(f"plugin {name} ({origin}) failed to {stage}")
                raise
            self.failures.append(PluginFailure(name, version, stage, error, origin))
            return
        self._owners.update({(part.role, part.name): f"the plugin {name}" for part in offered})
        self.plugins.append(Plugin(name, version, origin, offered))

    def _accept(self, answers: list[Any]) -> tuple[type[Component], ...]:
        """The parts in the hooks' answers, in the order of roles and names; raises on the first that is none."""
        taken = dict(self._owners)
        accepted = []
        for offer in (offer for answer in answers for offer in _listed(answer)):
            _check_offer(offer)
            slot = (offer.role, offer.name)
            if slot in taken:
                raise ValueError(f"the {offer.role} '{offer.name}' is already offered by {taken[slot]}")
            taken[slot] = "itself"
            accepted.append(offer)
        return tuple(sorted(accepted, key=lambda part: (ROLES.index(part.role), part.name)))


def _built_in(entry: EntryPoint) -> bool:
    return _distribution(entry).lower() == GROUP


def _distribution(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else ""


def _import_file(path: Path) -> ModuleType:
    """The file as a module, under a name that two files do not share."""
    place = hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:8]
    name = f"mutoscope_plugin_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look the module up while its classes are made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _register(plugin: Any, name: str) -> pluggy.PluginManager:
    """A manager for this plugin alone, so that blame is certain and nothing stays of one that fails."""
    if inspect.isclass(plugin):
        raise TypeError(f"{plugin.__name__} is a class; a plugin is a module, or an object")
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    manager.register(plugin, name=name)
    manager.check_pending()
    if not manager.get_hookcallers(plugin):
        raise TypeError("no function mutoscope_components marked with @mutoscope.hookimpl")
    return manager


def _listed(offers: Any) -> list[Any]:
    if not isinstance(offers, list):
        raise TypeError(f"mutoscope_components gave {_short(offers)}, which is not a list")
    return offers


def _check_offer(offer: Any) -> None:
    if not (inspect.isclass(offer) and issubclass(offer, Component)):
        raise TypeError(f"mutoscope_components offers {_short(offer)}, which is not a class of a component")
    if offer.role not in ROLES:
        raise TypeError(f"{offer.__name__} has no role: it extends none of {', '.join(ROLES)}")
    if not isinstance(offer.name, str) or not NAME.fullmatch(offer.name):
        rule = "lower-case letters, digits, underscores"
        raise TypeError(f'{offer.__name__} has no name: give it `name = "..."`, {rule}')
    if inspect.isabstract(offer):
        missing = ", ".join(sorted(offer.__abstractmethods__))
        raise TypeError(f"{offer.__name__} is abstract: it lacks {missing}")
    check_definition(offer)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


@contextlib.contextmanager
def _patience(seconds: float | None) -> Iterator[None]:
    """Raises TimeoutError in the block after so many seconds, where there are alarms: in the main thread of a Unix."""
    in_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not in_main or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, ring)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, remaining, interval)
