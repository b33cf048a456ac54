"""Distribution: one process or many, parameters replicated or sharded, by torchrun's environment.

One mechanism for both: `fully_shard` over a mesh of two axes. Replicated parameters are sharded over an axis of length
one, so that gradients are averaged while the backward pass still runs; sharded ones over all processes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mutoscope.core.component import Component
from mutoscope.core.errors import InputError


@dataclass(frozen=True)
class Processes:
    """The processes of this run: this one's rank, and how many there are."""

    rank: int = 0
    count: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009  immutable

    @property
    def first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, modules: Sequence[nn.Module], shard: bool) -> None:
        """Replicates or shards the parameters of learned modules, in place; nothing with one process."""
        if self.count == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        shape = (1, self.count) if shard else (self.count, 1)
        mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=("replicate", "shard"))
        for module in modules:
            blocks = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
            for block in (b for blocks_ in blocks for b in blocks_):
                if any(p.requires_grad for p in block.parameters()):
                    fully_shard(block, mesh=mesh)
            fully_shard(module, mesh=mesh)
            for entry in module.entries if isinstance(module, Component) else ():
                if entry != "forward":
                    register_fsdp_forward_method(cast(nn.Module, module), entry)

    def unite(self, modules: Sequence[nn.Module]) -> None:
        """Gives every process whole parameters again, for good: a phase is over, and its modules are only run."""
        if self.count == 1:
            return
        from torch.distributed.fsdp import FSDPModule

        for module in modules:
            for member in module.modules():
                if isinstance(member, FSDPModule):
                    member.set_reshard_after_forward(False, recurse=False)
                    member.unshard()

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors of possibly sharded ones; every process must call it."""
        return {name: _full(tensor) for name, tensor in tensors.items()}

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over processes."""
        if self.count == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.count

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        if self.count == 1:
            return flag
        vote = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()

    def tell(self, value: Any) -> Any:
        """The first process's JSON-able value, in every process."""
        if self.count == 1:
            return value
        import json

        text = json.dumps(value).encode() if self.first else b""
        length = torch.tensor(len(text), device=self.device)
        dist.broadcast(length, 0)
        data = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.first:
            data.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a parameter, or the parameter itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]


def rank() -> int:
    """This process's place among those that torchrun started; 0 alone."""
    return int(os.environ.get("RANK", "0"))


def join(device: str | torch.device | None = None) -> Processes:
    """Joins the processes that torchrun started, or stands alone. Picks a CUDA device where there is one.

    Raises InputError on a device that is not there.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(field="device", problem="no CUDA device is usable here", got=str(chosen), allowed=["cpu"])
        chosen = torch.device(
            "cuda", chosen.index if chosen.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
        )
        torch.cuda.set_device(chosen)
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Processes(rank(), count, chosen)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _full(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).full_tensor() if hasattr(tensor, "full_tensor") else tensor
