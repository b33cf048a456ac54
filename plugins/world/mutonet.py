"""The tower `mutonet`: a small network that sees what the embedded world is made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, final

import torch
from annotated_types import Ge, MultipleOf
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.tower import Tower
from mutoscope.core.values import Features
from mutoscope.plugins.world.state import COLOURS, DIRECTIONS, SHAPES, VERSION

READOUT = {"colour": len(COLOURS), "shape": len(SHAPES), "direction": len(DIRECTIONS) + 1, "velocity": 3, "radius": 1}
"""What the logits are, in order: scores of the colours, shapes and directions (`none` last), then (vy, vx, speed) in
world units per second and the radius in frame heights, both scaled by UNITS."""
UNITS = {"velocity": 4.0, "radius": 10.0}
CELL = 2
"""Pixels along a side of what the first layer sees as one place."""
SHIPPED = Path(__file__).with_name("mutonet.safetensors")
"""Float16 weights; the JSON beside them has their SHA-256 and says how they were made."""


@final
class Mutonet(Tower):
    """Three space-time convolutions over video of any size, pooled to 64 features of a clip.

    Trained on the states of the embedded world by the objective `perceive`; `recipes/mutonet.yaml` rebuilds it. Nothing
    is resized: a larger frame gives more places to pool over. Half of the last layer's channels are averaged over all
    places; of the other half the largest in each frame is averaged over the frames. logits: see READOUT; sequence: the
    last layer's places, time-major, B N 64.

    width: of the last layers; even. shipped: start from the weights that come with the package.
    """

    name = "mutonet"

    def __init__(self, *, width: Annotated[int, Ge(8), MultipleOf(4)] = 64, shipped: bool = True) -> None:
        super().__init__()
        widths = (3 * CELL * CELL, width // 2, width * 3 // 4, width)
        self.layers = nn.ModuleList(
            nn.Conv3d(a, b, 3, stride=stride, padding=1)
            for a, b, stride in zip(widths, widths[1:], (1, 2, 1), strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(1, b) for b in widths[1:-1])
        self.readout = nn.Linear(width, sum(READOUT.values()))
        if shipped:
            self._load(width)

    def forward(self, video: Tensor) -> Tensor:
        """The last layer's places, B D T' H' W', of B C T H W; odd rows and columns repeat the last one.

        Float32 also where others compute at less: what it sees should not depend on that, and oneDNN's bfloat16
        convolution of a single frame of 12 channels is wrong on some processors (seen with torch 2.14).
        """
        if video.is_meta:  # of which nothing is computed, and which no autocast knows
            return self._places(video)
        with torch.autocast(video.device.type, enabled=False):
            return self._places(video.float())

    def _places(self, video: Tensor) -> Tensor:
        rows, columns = video.shape[-2:]
        # White, the world's ground, is zero, as the padding is.
        x = F.pad(1 - video, (0, columns % CELL, 0, rows % CELL, 0, 0), mode="replicate")
        x = rearrange(x, "b c t (h p) (w q) -> b (c p q) t h w", p=CELL, q=CELL)
        for i, layer in enumerate(self.layers):
            x = F.silu(layer(x))
            if i < len(self.norms):
                x = self.norms[i](x)
        return x

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        places = self(video)
        spread, peaked = places.chunk(2, dim=1)
        pooled = torch.cat([spread.mean(dim=(2, 3, 4)), peaked.amax(dim=(3, 4)).mean(dim=2)], dim=1)
        return Features(places.flatten(2).transpose(1, 2), pooled, self.readout(pooled))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return f"mutonet:{digest.hexdigest()[:12]}"

    def _load(self, width: int) -> None:
        """The shipped weights. Raises WorkError where the file is not the one whose hash was written down."""
        card = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
        if width != card["width"]:
            raise InputError(
                field="width", problem="the shipped weights are of another; set shipped: false", got=width,
                allowed=str(card["width"]),
            )  # fmt: skip
        if self.readout.weight.is_meta:
            return
        found = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
        if found != card["sha256"]:
            raise WorkError(f"{SHIPPED.name} is damaged: its SHA-256 is {found[:12]}, not {card['sha256'][:12]}")
        self.load_state_dict({name: tensor.float() for name, tensor in load_file(SHIPPED).items()})


def ship(tower: Mutonet, made: str, file: Path = SHIPPED) -> None:
    """Writes a trained tower's weights as the shipped ones: float16, and the card with their hash. made: how."""
    weights = {
        name: tensor.detach().cpu().to(torch.float16).contiguous() for name, tensor in tower.state_dict().items()
    }
    save_file(weights, file)
    card = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "width": tower.readout.in_features,
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "world": VERSION,
        "made": made,
    }
    file.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def told_apart(logits: Tensor) -> dict[str, Tensor]:
    """Logits by what they say: B classes each, B 3 and B 1 in world units."""
    parts = dict(zip(READOUT, logits.split(list(READOUT.values()), dim=1), strict=True))
    return {name: part / UNITS.get(name, 1.0) for name, part in parts.items()}


def shape_of(logits: Tensor) -> list[str]:
    """The shape that is seen most in each clip."""
    return [SHAPES[i] for i in told_apart(logits)["shape"].argmax(1).tolist()]
