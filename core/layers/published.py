"""Published models that parts are built from: open_clip's configurations, and weights under their publishers' names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mutoscope.core.errors import InputError, nearest


def open_clip_configuration(model: str, needed: Sequence[str], known: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of an open_clip model; nothing is downloaded.

    model: a name of open_clip's, or a .json file in its format. needed: keys that it has to have. known: further names
    that may have been meant. Raises InputError on an unknown, unreadable or unfit one.
    """
    if model.endswith(".json"):
        try:
            found = json.loads(Path(model).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(field="model", problem=f"is no readable JSON file ({error})", got=model) from None
        found = found.get("model_cfg", found) if isinstance(found, dict) else found
    else:
        import open_clip

        found = open_clip.get_model_config(model)
        if found is None:
            names = open_clip.list_models()
            hint = nearest(model, [*known, *names]) or f"; open_clip knows {len(names)} models"
            raise InputError(field="model", problem=f"unknown open_clip model{hint}", got=model)
    towers = [key for key in needed if key.endswith("_cfg")]
    whole = isinstance(found, dict) and all(key in found for key in needed)
    if not whole or not all(isinstance(found[key], dict) for key in towers):
        raise InputError(
            field="model", problem=f"has no {' and '.join(needed)}, as open_clip's configurations do", got=model
        )
    return found


def load_published(network: nn.Module, file: str, prefixes: Sequence[str]) -> None:
    """Loads a .safetensors file into a network, or checks names and shapes only where it is on the meta device.

    prefixes: what may stand before the network's own names, as in a file of a larger model; the one that fits most is
    taken. Raises InputError naming what is missing or of another shape.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(file)
    if path.suffix != ".safetensors":
        raise InputError(field="file", problem="only .safetensors is read; `mutoscope import` converts", got=file)
    if not path.is_file():
        raise InputError(field="file", problem="no such file", got=file)
    wanted = network.state_dict()
    try:
        with safe_open(path, framework="pt") as stored, torch.no_grad():
            names = set(stored.keys())
            prefix = max(prefixes, key=lambda p: sum(p + name in names for name in wanted))
            for name, target in wanted.items():
                if prefix + name not in names:
                    raise InputError(field="file", problem=f"has no weights '{prefix + name}'", got=file)
                shape = stored.get_slice(prefix + name).get_shape()
                if list(target.shape) != list(shape):
                    problem = f"'{name}' is {shape}; the model has {list(target.shape)}"
                    raise InputError(field="file", problem=problem, got=file)
                if not target.is_meta:
                    target.copy_(stored.get_tensor(prefix + name))
    except (SafetensorError, OSError) as error:
        raise InputError(field="file", problem=f"is no safetensors file ({error})", got=file) from None
