"""Same weights, same outputs: the U-Nets whose architecture diffusers has too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutoscope.core.checks import Straight
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.plugins.diffusion.unets.adm import Adm
from mutoscope.plugins.diffusion.unets.blocks import Attention, Double, Halve, Residual
from mutoscope.plugins.diffusion.unets.ddpm_unet import DdpmUNet
from mutoscope.plugins.diffusion.unets.ldm_unet import LdmUNet, Transformer
from mutoscope.plugins.diffusion.unets.skeleton import Step

TOKEN = TokenFact(width=3, grid=Grid(1, 16, 16), channels=3)


class Noise(Straight):
    kind = "noise"


def same(ours: nn.Module, theirs: nn.Module) -> None:
    ours.load_state_dict(theirs.state_dict())


def residual(ours: Residual, theirs) -> None:
    for name in ("norm1", "conv1", "norm2", "conv2"):
        same(getattr(ours, name), getattr(theirs, name))
    same(ours.told, theirs.time_emb_proj)
    if theirs.conv_shortcut is not None:
        same(ours.skip, theirs.conv_shortcut)


def attention(ours: Attention, theirs) -> None:
    same(ours.norm, theirs.group_norm)
    heads = (theirs.to_q, theirs.to_k, theirs.to_v)
    ours.qkv.weight.copy_(torch.cat([layer.weight for layer in heads]))
    ours.qkv.bias.copy_(torch.cat([layer.bias for layer in heads]))
    same(ours.out, theirs.to_out[0])


def transformer(ours: Transformer, theirs) -> None:
    same(ours.norm, theirs.norm)
    same(ours.embed, theirs.proj_in)
    same(ours.out, theirs.proj_out)
    for mine, other in zip(ours.blocks, theirs.transformer_blocks, strict=True):
        for name in ("norm1", "norm2", "norm3"):
            same(getattr(mine, name), getattr(other, name))
        for mix, attn in ((mine.places, other.attn1), (mine.prompt, other.attn2)):
            for a, b in (("q", "to_q"), ("k", "to_k"), ("v", "to_v")):
                same(getattr(mix, a), getattr(attn, b))
            same(mix.out, attn.to_out[0])
        same(mine.up, other.ff.net[0].proj)
        same(mine.down, other.ff.net[2])


def change(ours: nn.Module, theirs) -> None:
    """A layer that halves or doubles."""
    if isinstance(ours, Residual):
        residual(ours, theirs)
    else:
        assert isinstance(ours, (Halve, Double))
        same(ours.conv, theirs.conv)


def step(ours: Step, resnet, attn) -> None:
    residual(ours.block, resnet)  # type: ignore[arg-type]
    assert (ours.attention is None) == (attn is None)
    if isinstance(ours.attention, Transformer):
        transformer(ours.attention, attn)
    elif isinstance(ours.attention, Attention):
        attention(ours.attention, attn)


def matched(ours, theirs) -> None:
    """Copies a UNet2DModel or a UNet2DConditionModel into ours, block by block."""
    with torch.no_grad():
        same(ours.embed, theirs.conv_in)
        same(ours.norm, theirs.conv_norm_out)
        same(ours.out, theirs.conv_out)
        same(ours.told.level[0], theirs.time_embedding.linear_1)
        same(ours.told.level[2], theirs.time_embedding.linear_2)
        if theirs.class_embedding is not None:
            ours.told.pooled.weight.copy_(theirs.class_embedding.weight.T)
        for mine, blocks in ((iter(ours.body.down), theirs.down_blocks), (iter(ours.body.up), theirs.up_blocks)):
            for block in blocks:
                attns = getattr(block, "attentions", None) or [None] * len(block.resnets)
                for resnet, attn in zip(block.resnets, attns, strict=True):
                    step(next(mine), resnet, attn)
                for layer in (getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None)) or ():
                    change(next(mine), layer)
            assert next(mine, None) is None
        step(ours.body.middle, theirs.mid_block.resnets[0], theirs.mid_block.attentions[0])
        residual(ours.body.end, theirs.mid_block.resnets[1])


def stirred(theirs: nn.Module) -> nn.Module:
    """With every zero-initialised weight moved."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return theirs.eval()


def compared(ours, expected: torch.Tensor, x: torch.Tensor, t: torch.Tensor, told: Conditioning) -> None:
    tokens = Tokens.canvas(Grid(1, *x.shape[2:]), len(x)).from_grid(x[:, :, None])
    with torch.no_grad():
        made = tokens.with_values(ours(tokens, t, told)).as_grid()[:, :, 0]
    scale = float(expected.abs().max())
    torch.testing.assert_close(made / scale, expected / scale, atol=1e-5, rtol=1e-5)


def test_ddpm() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(
        in_channels=3,
        out_channels=3,
        center_input_sample=False,
        freq_shift=1,
        flip_sin_to_cos=False,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(128, 256),
        layers_per_block=2,
        downsample_padding=0,
        attention_head_dim=None,
        norm_eps=1e-6,
    )
    ours = DdpmUNet(TOKEN, ConditioningFact(), Noise(), width=128, multipliers=(1, 2), attend=(2,)).eval()
    matched(ours, stirred(theirs))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([7.0, 800.0])
    with torch.no_grad():
        compared(ours, theirs(x, t).sample, x, t, Conditioning())


class Twice(LevelProcess):
    kind = "noise"

    def coefficients(self, level):
        return 1 - level, level

    def output_width(self, tokens: TokenFact) -> int:
        return 2 * tokens.width


def test_adm() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DModel(
        in_channels=3,
        out_channels=6,
        center_input_sample=False,
        freq_shift=0,
        flip_sin_to_cos=True,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(128, 256),
        layers_per_block=2,
        downsample_type="resnet",
        upsample_type="resnet",
        resnet_time_scale_shift="scale_shift",
        attention_head_dim=16,
        norm_eps=1e-5,
        num_class_embeds=7,
        attn_norm_num_groups=32,
    )
    ours = Adm(
        TOKEN, ConditioningFact(pooled=7), Twice(), width=128, multipliers=(1, 2), depth=2, attend=(2,), head_width=16
    ).eval()
    matched(ours, stirred(theirs))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([7.0, 800.0]), torch.tensor([3, 6])
    with torch.no_grad():
        expected = theirs(x, t, class_labels=labels).sample
        compared(ours, expected, x, t, Conditioning(pooled=nn.functional.one_hot(labels, 7).float()))


def test_latent_diffusion() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(128, 256),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=4,
    )
    ours = LdmUNet(
        TOKEN, ConditioningFact(sequence=24, length=5), Noise(), width=128, multipliers=(1, 2), attend=(1,), heads=4
    ).eval()
    matched(ours, stirred(theirs))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    x, t, prompt = torch.randn(2, 3, 16, 16), torch.tensor([7.0, 800.0]), torch.randn(2, 5, 24)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        expected = theirs(x, t, encoder_hidden_states=prompt, encoder_attention_mask=mask).sample
        compared(ours, expected, x, t, Conditioning(sequence=prompt, mask=mask))
