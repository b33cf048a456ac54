"""DiT: its published counts, diffusers on the same weights, and what its initialisation promises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mutoscope.core.checks import checks_of
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Conditioning, Grid, Known, Tokens
from mutoscope.plugins.diffusion.dit import Dit
from mutoscope.registry.counting import flops_of

BLOCKS = ("adaln_zero", "adaln", "cross", "context")
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
"""Width, blocks, heads; Peebles & Xie 2023, table 1."""
COUNTS = {"s": (33_142_016, 32_920_448, 32_865_056), "xl": (675_664_640, 675_000_704, 674_834_720)}
"""Parameters with the table of 1001 labels, at patch 8, 4, 2, as counted on the released code."""
MILLIONS = {"s": (33, 33, 33), "b": (131, 130, 130), "l": (459, 458, 458), "xl": (676, 675, 675)}
GMAC = {
    "s": (0.36, 1.41, 6.06),
    "b": (1.42, 5.56, 23.01),
    "l": (5.01, 19.70, 80.71),
    "xl": (7.39, 29.05, 118.64),
}
"""Table 4, at 256 pixels."""
ALTERNATIVES = {"context": (449_162_528, 119.37), "cross": (598e6, 137.62), "adaln": (600e6, 118.56)}
"""XL/2 with the other blocks; table 4."""


class Learned(LevelProcess):
    """Noise and the interpolation of its log-variance are asked for: twice the tokens' width."""

    kind = "noise"

    def coefficients(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - level, level

    def output_width(self, tokens: TokenFact) -> int:
        return 2 * tokens.width


def paper_dit(size: str, patch: int, block: str = "adaln_zero") -> tuple[Dit, TokenFact]:
    width, depth, heads = SIZES[size]
    fact = TokenFact(4 * patch * patch, Grid(1, 32 // patch, 32 // patch), channels=4, patch=(1, patch, patch))
    with torch.device("meta"):
        given = ConditioningFact(pooled=width)
        made = Dit(fact, given, Learned(), width=width, depth=depth, heads=heads, block=block, positions="plane")
    return made, fact


def counted(dit: Dit, fact: TokenFact) -> tuple[int, float]:
    """Parameters with the label table, and GMAC of one forward pass."""
    canvas = Tokens.canvas(fact.grid, 1, "meta")
    tokens = canvas.with_values(torch.empty(1, fact.grid.cells, fact.width, device="meta"))
    told = Conditioning(pooled=torch.empty(1, dit.width, device="meta"))
    flops = flops_of(lambda: dit(tokens, torch.empty(1, device="meta"), told))
    return sum(p.numel() for p in dit.parameters()) + 1001 * dit.width, flops / 2e9


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("place", "patch"), list(enumerate((8, 4, 2))))
def test_the_counts_of_table_4(size: str, place: int, patch: int) -> None:
    parameters, gmac = counted(*paper_dit(size, patch))
    if size in COUNTS:
        assert parameters == COUNTS[size][place]
    assert round(parameters / 1e6) == MILLIONS[size][place]
    assert gmac == pytest.approx(GMAC[size][place], rel=0.006)


@pytest.mark.parametrize("block", ALTERNATIVES)
def test_the_counts_of_the_other_blocks(block: str) -> None:
    expected, published = ALTERNATIVES[block]
    parameters, gmac = counted(*paper_dit("xl", 2, block))
    assert parameters == expected if isinstance(expected, int) else round(parameters / 1e6) == expected / 1e6
    assert gmac == pytest.approx(published, rel=0.006)


# On the same weights as another library


def from_diffusers(reference, dit: Dit, patch: int, channels: int) -> dict[str, Tensor]:
    """The weights of diffusers' model in our order: patches are (c, p, q) here, outputs (p, q, c) there."""
    theirs = reference.state_dict()
    ours = {
        "embed.weight": theirs["pos_embed.proj.weight"].flatten(1),
        "embed.bias": theirs["pos_embed.proj.bias"],
        "modulate.weight": theirs["proj_out_1.weight"],
        "modulate.bias": theirs["proj_out_1.bias"],
    }
    for kind in ("weight", "bias"):
        out = theirs[f"proj_out_2.{kind}"].unflatten(0, (patch, patch, 2, channels))
        ours[f"out.{kind}"] = out.permute(2, 3, 0, 1, *range(4, out.ndim)).flatten(0, 3)
        for place, name in ((0, "linear_1"), (2, "linear_2")):
            ours[f"level.{place}.{kind}"] = theirs[f"transformer_blocks.0.norm1.emb.timestep_embedder.{name}.{kind}"]
        for i in range(len(dit.blocks)):
            at, to = f"transformer_blocks.{i}", f"blocks.{i}"
            ours[f"{to}.modulate.{kind}"] = theirs[f"{at}.norm1.linear.{kind}"]
            ours[f"{to}.attention.qkv.{kind}"] = torch.cat([theirs[f"{at}.attn1.to_{x}.{kind}"] for x in "qkv"])
            ours[f"{to}.attention.out.{kind}"] = theirs[f"{at}.attn1.to_out.0.{kind}"]
            ours[f"{to}.mlp.0.{kind}"] = theirs[f"{at}.ff.net.0.proj.{kind}"]
            ours[f"{to}.mlp.2.{kind}"] = theirs[f"{at}.ff.net.2.{kind}"]
    return ours


def test_diffusers_on_the_same_weights() -> None:
    """To 1e-5. Diffusers spaces the level's frequencies by 127 instead of the paper's 128, which is undone here."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    channels, patch, side = 4, 2, 8
    reference = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=channels, out_channels=2 * channels, num_layers=2,
        sample_size=side, patch_size=patch, num_embeds_ada_norm=10,
    ).eval()  # fmt: skip
    emb = [block.norm1.emb for block in reference.transformer_blocks]
    for each in emb:  # every block of diffusers holds the same embedding of level and label
        each.time_proj.downscale_freq_shift = 0
        each.load_state_dict(emb[0].state_dict())
    fact = TokenFact(channels * patch**2, Grid(1, side // patch, side // patch), channels, patch=(1, patch, patch))
    dit = Dit(fact, ConditioningFact(pooled=32), Learned(), width=32, depth=2, heads=2, positions="plane")
    dit.load_state_dict(from_diffusers(reference, dit, patch, channels))
    latents, level, label = torch.randn(3, channels, side, side), torch.tensor([0, 17, 999]), torch.tensor([1, 7, 10])
    cut = latents.unfold(2, patch, patch).unfold(3, patch, patch)  # b c h w p q
    values = cut.permute(0, 2, 3, 1, 4, 5).reshape(3, -1, fact.width)
    told = Conditioning(pooled=emb[0].class_embedder.embedding_table(label))
    with torch.no_grad():
        expected = reference(latents, timestep=level, class_labels=label).sample
        made = dit(Tokens.canvas(fact.grid, 3).with_values(values), level, told)
    made = made.unflatten(2, (2 * channels, patch, patch)).unflatten(1, fact.grid[1:])
    made = made.permute(0, 3, 1, 4, 2, 5).reshape(3, 2 * channels, side, side)
    assert expected.abs().mean() > 0.05
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


# What it does


def small(block: str, given: ConditioningFact = ConditioningFact(pooled=8), **settings) -> Dit:  # noqa: B008
    torch.manual_seed(1)
    fact = TokenFact(4, Grid(2, 3, 3), channels=4)
    return Dit(fact, given, Learned(), width=24, depth=2, heads=2, block=block, **settings)


def tokens_of(clips: int = 2) -> Tokens:
    torch.manual_seed(2)
    grid = Grid(2, 3, 3)
    return Tokens.canvas(grid, clips).with_values(torch.randn(clips, grid.cells, 4))


def trunk(dit: Dit, tokens: Tokens, told: Conditioning) -> list[Tensor]:
    """What enters the first block, and what leaves each."""
    seen: list[Tensor] = []
    hooks = [dit.blocks[0].register_forward_pre_hook(lambda m, args: seen.append(args[0]))]
    hooks += [block.register_forward_hook(lambda m, args, out: seen.append(out)) for block in dit.blocks]
    dit(tokens, torch.tensor([10.0, 900.0])[: len(tokens)], told)
    for hook in hooks:
        hook.remove()
    return seen


def test_adaln_zero_starts_as_the_identity() -> None:
    dit, tokens, told = small("adaln_zero"), tokens_of(), Conditioning(pooled=torch.randn(2, 8))
    first, *later = trunk(dit, tokens, told)
    assert all(torch.equal(first, x) for x in later)
    assert not dit(tokens, torch.tensor([10.0, 900.0]), told).any()
    with torch.no_grad():  # one gate off zero breaks it
        dit.blocks[0].modulate.bias[2 * 24] = 0.1
    assert not torch.equal(first, trunk(dit, tokens, told)[1])


@pytest.mark.parametrize("block", BLOCKS)
def test_the_output_starts_at_zero(block: str) -> None:
    dit, told = small(block), Conditioning(pooled=torch.randn(2, 8))
    assert not dit(tokens_of(), torch.tensor([10.0, 900.0]), told).any()


def test_the_other_blocks_are_no_identity() -> None:
    for block in BLOCKS[1:]:
        first, then, *_ = trunk(small(block), tokens_of(), Conditioning(pooled=torch.randn(2, 8)))
        assert not torch.allclose(first, then)


@pytest.mark.parametrize("block", BLOCKS)
def test_without_positions_tokens_are_a_set(block: str) -> None:
    """Permuted tokens with equal positions give permuted outputs; with their own positions they do not."""
    dit = stirred(small(block, positions="plane"))
    tokens, told, level = tokens_of(1), Conditioning(pooled=torch.randn(1, 8)), torch.tensor([300.0])
    order = torch.randperm(tokens.clip.shape[1])

    def out(positions: Tensor, values: Tensor) -> Tensor:
        return dit(Tokens(values, positions, tokens.clip, tokens.grids), level, told)

    nowhere, values = torch.zeros_like(tokens.positions), tokens.filled()
    torch.testing.assert_close(out(nowhere, values[:, order]), out(nowhere, values)[:, order], atol=1e-5, rtol=1e-5)
    moved = out(tokens.positions, values[:, order])
    assert not torch.allclose(moved, out(tokens.positions, values)[:, order], atol=1e-3)
    torch.testing.assert_close(
        out(tokens.positions[:, order], values[:, order]), out(tokens.positions, values)[:, order], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("block", BLOCKS)
def test_known_tokens_are_told_apart(block: str) -> None:
    dit = stirred(small(block, ConditioningFact(pooled=8, known=True)))
    tokens, level = tokens_of(1), torch.tensor([700.0])
    where = torch.zeros(1, 18, dtype=torch.bool)
    pooled = torch.randn(1, 8)

    def out(where: Tensor) -> Tensor:
        return dit(tokens, level, Conditioning(pooled=pooled, known=Known(tokens.filled(), where)))

    nothing = out(where)
    where = where.clone()
    where[0, :4] = True
    assert not torch.allclose(nothing[0, :4], out(where)[0, :4], atol=1e-3)


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("prompt", ["cross", "context"])
def test_the_contract(block: str, prompt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dit, "tiny", {"width": 32, "depth": 2, "heads": 2, "block": block, "prompt": prompt})
    for check in checks_of(Dit):
        check.run()


def test_packed_tokens_refuse_context() -> None:
    packed = TokenFact(4, Grid(2, 3, 3), channels=4, packed=True)
    for settings in ({"block": "context"}, {"prompt": "context"}):
        with pytest.raises(ValueError, match="use cross"):
            Dit(packed, ConditioningFact(pooled=8, sequence=8, length=3), Learned(), width=24, heads=2, **settings)


def stirred(dit: LevelDenoiser) -> LevelDenoiser:
    """With every weight moved off its initial value."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return dit.eval()
