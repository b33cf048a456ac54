"""What a plugin may be asked. One hook: which parts it offers."""

from __future__ import annotations

import pluggy

from mutoscope.core.component import Component

hookspec = pluggy.HookspecMarker("mutoscope")


class Hooks:
    """The hooks of a plugin; mark an implementation with `mutoscope.hookimpl`."""

    @hookspec
    def mutoscope_components(self) -> list[type[Component]]:  # pyright: ignore[reportReturnType]
        """The classes of the parts that this plugin offers, each final, with a name of its own in its role."""
