"""ViT, by timm: a tower that classifies frames, and a denoiser over the patches of all frames."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ClipFact, ConditioningFact, Continuous, FeatureFact, Regular, TokenFact
from mutoscope.core.layers.embeddings import sincos_plane, sinusoid
from mutoscope.core.layers.telling import pooled_to
from mutoscope.core.layers.tubelets import resized_positions
from mutoscope.core.process import LevelProcess
from mutoscope.core.settings import Count, Depth, Heads, Natural, Positive, Width
from mutoscope.core.tower import Tower
from mutoscope.core.values import Conditioning, Features, Grid, Tokens
from mutoscope.plugins.patches.grids import old_grid


def timm_vit(
    size: tuple[int, int], patch: int, channels: int, width: int, depth: int, heads: int, mlp: float, **more: Any
) -> Any:
    """timm's ViT with the GELU of the released code (the tanh form), initialised as there."""
    if width % heads:
        raise ValueError(f"heads: {heads} heads do not divide a width of {width}")
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=size, patch_size=patch, in_chans=channels, embed_dim=width, depth=depth, num_heads=heads,
        mlp_ratio=mlp, act_layer="gelu_tanh", weight_init="jax", **more,
    )  # fmt: skip


@final
class VitTower(Tower):
    """ViT over single frames, with its classification head. Dosovitskiy et al. 2021, sec. 3.1, arXiv:2010.11929.

    A video's logits and pooled features are the means of its frames'; the sequence has the patches of all frames. A
    frame of another size gets the positions interpolated, the class token's apart (sec. 3.2). Weights may be another
    grid's, or a timm checkpoint's; a head for other classes is left as it is, at zero.

    patch: rows and columns of pixels. classes: of the head; by default the data's, 0 for no head. positions: `learned`,
    or the `fixed` sines and cosines of masked autoencoders.
    """

    name = "vit"
    paper = "Dosovitskiy et al. 2021, arXiv:2010.11929"
    tiny = {"width": 16, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        clip: ClipFact,
        *,
        patch: Count = 4,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 3,
        mlp: Positive = 4.0,
        classes: Natural | None = None,
        positions: Literal["learned", "fixed"] = "learned",
    ) -> None:
        super().__init__()
        if any(n % patch for n in clip.size):
            raise ValueError(f"patch: frames of {clip.size[0]} x {clip.size[1]} do not divide into patches of {patch}")
        self.patch, self.width = patch, width
        self.grid = Grid(clip.frames, clip.size[0] // patch, clip.size[1] // patch)
        self.network = timm_vit(
            clip.size, patch, clip.channels, width, depth, heads, mlp,
            num_classes=clip.classes if classes is None else classes,
            pos_embed="learn" if positions == "learned" else "none",
        )  # fmt: skip
        nn.init.zeros_(self.network.cls_token)

    def facts(self) -> tuple[FeatureFact, ...]:
        return (FeatureFact(self.width, self.grid, (1, self.patch, self.patch)),)

    def forward(self, video: Tensor) -> Features:
        return self.features(video)

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        clips = len(video)
        encoded = self.encode(self.embed(rearrange(video, "b c t h w -> (b t) c h w")))
        pooled, patches = encoded[:, 0], encoded[:, 1:]
        logits = self.network.head(pooled)
        return Features(
            rearrange(patches, "(b t) n d -> b (t n) d", b=clips),
            rearrange(pooled, "(b t) d -> b t d", b=clips).mean(1),
            rearrange(logits, "(b t) k -> b t k", b=clips).mean(1),
        )

    def embed(self, frames: Tensor) -> Tensor:
        """F C H W to the embedded patches with their positions, F N D."""
        proj = self.network.patch_embed.proj
        x = F.conv2d(frames, proj.weight, proj.bias, stride=self.patch)
        grid = Grid(1, *x.shape[2:])
        return rearrange(x, "f d h w -> f (h w) d") + self._positions(grid, frames.device).to(x.dtype)

    def encode(self, patches: Tensor) -> Tensor:
        """Embedded patches, all or some of them, through the blocks: F N D to F 1+N D, the class token first."""
        token = self.network.cls_token
        if self.network.pos_embed is not None:
            token = token + self.network.pos_embed[:, :1]
        x = torch.cat([token.to(patches.dtype).expand(len(patches), -1, -1), patches], dim=1)
        return self.network.norm(self.network.blocks(x))

    def adapted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """A timm checkpoint's names, another grid's positions, another head's classes."""
        made = {k if k.startswith("network.") else f"network.{k}": v for k, v in stored.items()}
        table = "network.pos_embed"
        if table in made and self.network.pos_embed is not None:
            token, places = made[table][:, :1], made[table][0, 1:]
            grid = Grid(1, *self.grid[1:])
            resized = resized_positions(places, old_grid(len(places), grid), grid)
            made[table] = torch.cat([token, resized[None].to(token.dtype)], dim=1)
        return {**made, **_own_head(self, made, "network.head")}

    def _positions(self, grid: Grid, device: torch.device) -> Tensor:
        if self.network.pos_embed is None:
            return sincos_plane(Tokens.canvas(grid, 1, device).positions, self.width)
        return resized_positions(self.network.pos_embed[0, 1:], Grid(1, *self.grid[1:]), grid)


@final
class VitDenoiser(LevelDenoiser):
    """ViT as a denoiser: the class token makes way for tokens that say level and conditioning.

    Patches of all frames are one sequence; the output of each is a linear layer's, at zero at first. Level, pooled
    vector and prompt features stand before the patches, as Bao et al. 2023 (arXiv:2209.12152) have them. Positions are
    learned in rows and columns, interpolated for other grids, and fixed in time, where the first frame's are zero.
    """

    name = "vit"
    paper = "Dosovitskiy et al. 2021, arXiv:2010.11929"
    tiny = {"width": 16, "depth": 2, "heads": 2}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: LevelProcess,
        *,
        width: Width = 192,
        depth: Depth = 6,
        heads: Heads = 3,
        mlp: Positive = 4.0,
    ) -> None:
        super().__init__()
        self.width, self.plane = width, Grid(1, *tokens.grid[1:])
        # A token is one pixel of so many channels to timm: its convolution over patches is a linear layer over them.
        self.network = timm_vit(
            tokens.grid[1:], 1, tokens.width, width, depth, heads, mlp, num_classes=0, class_token=False,
            global_pool="avg", fc_norm=False,
        )  # fmt: skip
        self.level = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = pooled_to(given, width)
        self.context = nn.Linear(given.sequence, width) if given.sequence else None
        self.out = nn.Linear(width, process.output_width(tokens))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        """B N width to B N output_width."""
        proj = self.network.patch_embed.proj
        x = F.linear(tokens.filled(), proj.weight.flatten(1), proj.bias)
        x = x + self._positions(tokens).to(x.dtype)
        before, real = self._told(level, conditioning)
        mask = None if real is None else F.pad(real, (0, x.shape[1]), value=True)[:, None, None]
        x = torch.cat([before, x], dim=1)
        for block in self.network.blocks:
            x = block(x, attn_mask=mask)
        return self.out(self.network.norm(x)[:, before.shape[1] :])

    def _told(self, level: Tensor, conditioning: Conditioning) -> tuple[Tensor, Tensor | None]:
        """The tokens before the patches, B L D, and which of them are real, B L."""
        told = [self.level(sinusoid(level, 256).to(self.level[0].weight.dtype))]  # type: ignore[arg-type]
        if self.pooled is not None and conditioning.pooled is not None:
            told.append(self.pooled(conditioning.pooled))
        before = torch.stack(told, dim=1)
        if self.context is None or conditioning.sequence is None:
            return before, None
        real = None if conditioning.mask is None else F.pad(conditioning.mask, (len(told), 0), value=True)
        return torch.cat([before, self.context(conditioning.sequence)], dim=1), real

    def _positions(self, tokens: Tokens) -> Tensor:
        grid = tokens.grids[0]
        plane = resized_positions(cast(Tensor, self.network.pos_embed)[0], self.plane, Grid(1, *grid[1:]))
        time = sinusoid(torch.arange(grid.frames, device=plane.device), self.width)
        return rearrange(plane[None] + (time - time[:1])[:, None], "t s d -> 1 (t s) d")

    def adapted(self, stored: dict[str, Any]) -> dict[str, Any]:
        """Another grid's positions."""
        table = "network.pos_embed"
        if table not in stored:
            return stored
        places = stored[table][0]
        return {**stored, table: resized_positions(places, old_grid(len(places), self.plane), self.plane)[None]}


def _own_head(part: nn.Module, made: dict[str, Any], head: str) -> dict[str, Tensor]:
    """The part's own head, where the stored one is missing or for other classes."""
    own = {key: tensor for key, tensor in part.state_dict().items() if key.startswith(f"{head}.")}
    return {key: tensor for key, tensor in own.items() if key not in made or made[key].shape != tensor.shape}
