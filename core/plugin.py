"""The one import a plugin author needs besides the role: the hook marker."""

import pluggy

hookimpl = pluggy.HookimplMarker("mutoscope")
