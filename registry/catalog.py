"""The catalogue: every part that can be named, by role and name, and the plugins that offered them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from mutoscope.core.component import Component
from mutoscope.core.errors import nearest
from mutoscope.registry.loading import ROLES, Loader, Plugin, PluginFailure


class Catalog:
    """The parts of all plugins that loaded. plugins: those, in the order of loading. failures: those that did not."""

    def __init__(self, plugins: Sequence[Plugin], failures: Sequence[PluginFailure] = ()) -> None:
        self.plugins = tuple(plugins)
        self.failures = tuple(failures)
        offered = sorted((part for plugin in plugins for part in plugin.offered), key=lambda part: part.name)
        self._classes = {role: {part.name: part for part in offered if part.role == role} for role in ROLES}
        self._homes = {part: plugin.name for plugin in plugins for part in plugin.offered}

    @classmethod
    def load(
        cls, plugins: Sequence[Path] = (), strict: bool = False, entries: Iterable[EntryPoint] | None = None
    ) -> Catalog:
        """The built-in plugins, the installed ones, and these plugin files.

        strict: raise what a plugin raises. entries: entry points to load instead of the environment's. Raises
        InputError if a plugin file does not exist.
        """
        loader = Loader(strict)
        loader.load_installed(entries)
        for path in plugins:
            loader.load_file(Path(path))
        return cls(loader.plugins, loader.failures)

    def roles(self) -> tuple[str, ...]:
        """The words of all roles, whether or not there is a part for them."""
        return ROLES

    def classes(self, role: str) -> dict[str, type[Component]]:
        """The parts of a role by name, sorted. Raises KeyError on a word that is no role."""
        return dict(self._classes[role])

    def find(self, role: str, name: str) -> type[Component] | None:
        """The part of this role and name, or None."""
        return self._classes[role].get(name)

    def suggest(self, role: str, name: str) -> str:
        """What to say of a name that `find` does not know: the nearest name, or all of them; where the name is a part
        of another role; and the plugins that failed to load, one of which may have offered it."""
        names = list(self._classes[role])
        said = [nearest(name, names).removeprefix("; ") or f"there are: {', '.join(names) or 'none'}"]
        said += [f"'{name}' is the name of a part of the role {other}" for other in ROLES if self.find(other, name)]
        return "; ".join([*said, *map(str, self.failures)])

    def plugin_of(self, part: type[Component]) -> str:
        """The name of the plugin that offered a part. Raises KeyError for a class from elsewhere."""
        return self._homes[part]

    def rows(self) -> list[dict[str, Any]]:
        """One row per part, by role and name, as `list --json` prints them."""
        return [
            {
                "role": role,
                "name": name,
                "summary": part.summary(),
                "capabilities": list(part.capabilities()),
                "paper": part.paper,
                "plugin": self._homes[part],
            }
            for role in ROLES
            for name, part in self._classes[role].items()
        ]
