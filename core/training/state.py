"""What a phase in progress must remember besides weights: optimizers and the average, as tensors and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.core.errors import InputError, nearest
from mutoscope.core.training.distribution import Processes
from mutoscope.core.training.turns import Player, Turns


def player_tensors(turns: Turns, processes: Processes) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by file and JSON-able rest of every player's optimizer and of the average.

    Optimizer state is addressed by parameter name, so that it does not depend on the order of parameters or on how
    they are shared among processes.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Any] = {}
    for turn, player in turns.players.items():
        kept, plain = _optimizer_state(player)
        tensors[f"optimizer.{turn}"] = processes.whole(kept)
        rest[turn] = plain
    if turns.average is not None:
        names = list(turns.players["learner"].named)
        tensors["average"] = processes.whole(dict(zip(names, turns.average.weights, strict=True)))
        rest["average"] = {"count": turns.average.count}
    return tensors, rest


@torch.no_grad()
def load_players(turns: Turns, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Puts back what `player_tensors` gave. Raises InputError where it is not of these players."""
    rest = state["players"]
    wanted = {f"optimizer.{turn}" for turn in turns.players}
    if not wanted <= set(parts) or (turns.average is not None and "average" not in parts):
        raise InputError(f"a checkpoint holds other players than this recipe's: {', '.join(sorted(parts))}")
    for turn, player in turns.players.items():
        _load_optimizer(player, parts[f"optimizer.{turn}"], rest[turn])
    if turns.average is not None:
        for name, weight in zip(turns.players["learner"].named, turns.average.weights, strict=True):
            weight.copy_(_like(parts["average"][name], weight))
        turns.average.count = rest["average"]["count"]


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Loads a whole module; parameters that are shared among processes take their shards.

    source: named in the error. Raises InputError, and loads nothing, where a name or shape is not the module's.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    stored = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = next((name for name in sorted({*wanted, *stored}) if wanted.get(name) != stored.get(name)), None)
    if wrong is not None:
        has, wants = (list(of[wrong]) if wrong in of else "not there" for of in (stored, wanted))
        near = nearest(wrong, stored) if wrong not in stored else ""
        raise InputError(f"{source}: holds other weights than this recipe's: {wrong} is {has}, not {wants}{near}")
    if any(hasattr(tensor, "device_mesh") for tensor in module.state_dict().values()):
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                tensor.copy_(_like(tensors[name], tensor))
    else:
        module.load_state_dict(tensors)


def _optimizer_state(player: Player) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"parameters": {}, "groups": []}
    for name, parameter in player.named.items():
        for word, value in player.optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{word}"] = value
            elif value is not None:
                plain["parameters"].setdefault(name, {})[word] = value
    for group in player.optimizer.param_groups:
        plain["groups"].append(
            {word: v for word, v in group.items() if isinstance(v, (int, float, bool)) and word != "lr"}
        )
    return tensors, plain


def _load_optimizer(player: Player, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    player.optimizer.state.clear()
    for address, value in tensors.items():
        name, _, word = address.rpartition("|")
        if name not in player.named:
            raise InputError(f"a checkpoint holds an optimizer of other weights than this recipe's: {name}")
        parameter = player.named[name]
        place = player.optimizer.state[parameter]
        place[word] = _like(value, parameter) if value.shape == parameter.shape else value.clone()
    for name, words in plain["parameters"].items():
        player.optimizer.state[player.named[name]].update(words)
    for group, words in zip(player.optimizer.param_groups, plain["groups"], strict=True):
        group.update(words)


def _like(value: Tensor, other: Tensor) -> Tensor:
    """`value` on the device of `other`, and sharded as it is."""
    if hasattr(other, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)  # type: ignore[attr-defined]
    return value.to(other.device).clone()
