"""Mutoscope: a laboratory for video generation.

The public names load lazily, so that `import mutoscope` and `mutoscope --help` do not import torch.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "hookimpl": "mutoscope.core.plugin",
    "load": "mutoscope.registry.runs",
    "generate": "mutoscope.core.generation",
    "Request": "mutoscope.core.generation",
    "Model": "mutoscope.core.model",
    "from_pretrained": "mutoscope.registry.pretrained",
    "save_pretrained": "mutoscope.registry.pretrained",
    "MutoscopeError": "mutoscope.core.errors",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'mutoscope' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
