"""Forward and backward of `dit` against the DiT of diffusers: the same architecture, weights and batch.

    python -m mutoscope.benchmarks.speed.dit_and_diffusers [--pairs N] [--device cuda] [--precision bfloat16]

The paper's DiT with its label table, at a few sizes. Both get latents and give latents, so that cutting into patches
and joining them is timed on both sides; before any timing their outputs are held equal to 1e-4.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.benchmarks.speed.pairs import FEWEST, ratio, timed_in_turn
from mutoscope.core.facts import ConditioningFact, LatentFact
from mutoscope.core.values import Conditioning, Grid, Latents
from mutoscope.registry.catalog import Catalog


@dataclass(frozen=True)
class Size:
    """Blocks, heads and head width of a DiT over latents of `channels` x side x side, cut into patches."""

    depth: int
    heads: int
    head: int
    side: int = 32
    patch: int = 2
    channels: int = 4
    batch: int = 4

    @property
    def width(self) -> int:
        return self.heads * self.head


SIZES = {"small": Size(4, 4, 32, side=16, batch=16), "s/2": Size(12, 6, 64), "s/4": Size(12, 6, 64, patch=4, batch=8)}


class Ours(nn.Module):
    """`spacetime` and `dit`, as a model holds them."""

    def __init__(self, size: Size, reference: Any, catalog: Catalog) -> None:
        super().__init__()
        p = size.patch
        fact = LatentFact(size.channels, (1, 1, 1), Grid(1, size.side, size.side))
        self.patchifier = catalog.find("patchifier", "spacetime")(fact, size=(1, p, p))  # type: ignore[misc]
        process = catalog.find("objective", "improved_ddpm")().process  # type: ignore[misc]
        tokens = next(iter(self.patchifier.facts()))
        self.dit = catalog.find("denoiser", "dit")(  # type: ignore[misc]
            tokens, ConditioningFact(pooled=size.width), process,
            width=size.width, depth=size.depth, heads=size.heads, positions="plane",
        )  # fmt: skip
        self.labels = reference.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
        self.dit.load_state_dict(weights_from(reference, self.dit, size))
        self.grid = Grid(1, size.side // p, size.side // p)

    def forward(self, latents: Tensor, level: Tensor, label: Tensor) -> Tensor:
        tokens = self.patchifier.patchify(Latents(latents[:, :, None]))
        return self.dit(tokens, level, Conditioning(pooled=self.labels(label)))


def weights_from(reference: Any, dit: Any, size: Size) -> dict[str, Tensor]:
    """The weights of diffusers' model in our order: outputs are (c, p, q) here and (p, q, c) there."""
    theirs, p = reference.state_dict(), size.patch
    ours = {
        "embed.weight": theirs["pos_embed.proj.weight"].flatten(1),
        "embed.bias": theirs["pos_embed.proj.bias"],
        "modulate.weight": theirs["proj_out_1.weight"],
        "modulate.bias": theirs["proj_out_1.bias"],
    }
    for kind in ("weight", "bias"):
        out = theirs[f"proj_out_2.{kind}"].unflatten(0, (p, p, 2, size.channels))
        ours[f"out.{kind}"] = out.permute(2, 3, 0, 1, *range(4, out.ndim)).flatten(0, 3)
        for place, name in ((0, "linear_1"), (2, "linear_2")):
            ours[f"level.{place}.{kind}"] = theirs[f"transformer_blocks.0.norm1.emb.timestep_embedder.{name}.{kind}"]
        for i in range(size.depth):
            at, to = f"transformer_blocks.{i}", f"blocks.{i}"
            ours[f"{to}.modulate.{kind}"] = theirs[f"{at}.norm1.linear.{kind}"]
            ours[f"{to}.attention.qkv.{kind}"] = torch.cat([theirs[f"{at}.attn1.to_{x}.{kind}"] for x in "qkv"])
            ours[f"{to}.attention.out.{kind}"] = theirs[f"{at}.attn1.to_out.0.{kind}"]
            ours[f"{to}.mlp.0.{kind}"] = theirs[f"{at}.ff.net.0.proj.{kind}"]
            ours[f"{to}.mlp.2.{kind}"] = theirs[f"{at}.ff.net.2.{kind}"]
    return ours


def both(size: Size, device: str, catalog: Catalog) -> tuple[Ours, Any]:
    """Ours, and diffusers' with one embedding of level and label, which its blocks hold a copy of each."""
    import diffusers

    torch.manual_seed(0)
    reference = diffusers.DiTTransformer2DModel(
        num_attention_heads=size.heads, attention_head_dim=size.head, in_channels=size.channels,
        out_channels=2 * size.channels, num_layers=size.depth, sample_size=size.side, patch_size=size.patch,
        num_embeds_ada_norm=1000,
    ).eval()  # fmt: skip
    first = reference.transformer_blocks[0].norm1.emb
    for block in reference.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # the paper's frequencies
        block.norm1.emb.load_state_dict(first.state_dict())
    return Ours(size, reference, catalog).to(device).eval(), reference.to(device)


def measure(
    name: str, pairs: int = 40, device: str = "cpu", precision: str = "float32", catalog: Catalog | None = None
) -> dict[str, Any]:
    """The ratio of seconds of forward and backward, ours over theirs. Raises AssertionError where outputs differ."""
    size = SIZES[name]
    ours, theirs = both(size, device, catalog or Catalog.load())
    latents = torch.randn(size.batch, size.channels, size.side, size.side, device=device)
    level = torch.randint(0, 1000, (size.batch,), device=device)
    label = torch.randint(0, 1000, (size.batch,), device=device)
    with torch.no_grad():
        expected = theirs(latents, timestep=level, class_labels=label).sample
        made = ours(latents, level, label)
        p = size.patch
        expected = expected.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).reshape(made.shape)
        torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)

    def step(network: nn.Module, call: Any) -> None:
        with _autocast(device, precision):
            call().float().square().mean().backward()
        network.zero_grad(set_to_none=True)
        if device != "cpu":
            torch.cuda.synchronize()

    mine, other = timed_in_turn(
        lambda: step(ours, lambda: ours(latents, level, label)),
        lambda: step(theirs, lambda: theirs(latents, timestep=level, class_labels=label).sample),
        pairs,
    )
    found = ratio(mine, other)
    parameters = sum(p.numel() for p in ours.dit.parameters())
    return {
        "size": name,
        **asdict(size),
        "parameters": parameters,
        "ratio": asdict(found),
        "bar": 1.0,
        "within": found.within(1.0) if pairs >= FEWEST else None,
        "precision": precision,
        "device": device,
        "threads": torch.get_num_threads(),
    }


def _autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    if precision == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, precision))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Seconds of dit's forward and backward over those of diffusers' DiT.")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--size", nargs="*", default=list(SIZES), choices=list(SIZES))
    said = parser.parse_args(arguments)
    catalog = Catalog.load()
    print(json.dumps([measure(s, said.pairs, said.device, said.precision, catalog) for s in said.size], indent=2))


if __name__ == "__main__":
    main()
