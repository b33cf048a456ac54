"""The image U-Nets: the contract, frames as pictures of their own, identities at first, and the published counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mutoscope.core.checks import GIVEN, GRID, Straight, checks_of
from mutoscope.core.facts import ConditioningFact, TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.values import Conditioning, Grid, Tokens
from mutoscope.plugins.diffusion.unets import blocks
from mutoscope.plugins.diffusion.unets.adm import Adm
from mutoscope.plugins.diffusion.unets.ddpm_unet import DdpmUNet
from mutoscope.plugins.diffusion.unets.ddpmpp import DdpmPlusPlus
from mutoscope.plugins.diffusion.unets.ldm_unet import LdmUNet, Transformer
from mutoscope.plugins.diffusion.unets.ncsnpp import NcsnPlusPlus

NETS = (DdpmUNet, Adm, LdmUNet, DdpmPlusPlus, NcsnPlusPlus)
TOKEN = TokenFact(width=4, grid=GRID, channels=4)
CHECKS = [(net, check) for net in NETS for check in checks_of(net)]


@pytest.mark.parametrize(("net", "check"), CHECKS, ids=[f"{n.name}-{c.name}" for n, c in CHECKS])
def test_contract(net, check) -> None:
    check.run()


def built(net, given: ConditioningFact = GIVEN, token: TokenFact = TOKEN, **settings):
    torch.manual_seed(0)
    part = net(token, given, Straight(), **{**net.tiny, **settings}).eval()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return part


def told(clips: int, **fields) -> Conditioning:
    torch.manual_seed(1)
    return Conditioning(
        pooled=torch.randn(clips, 8),
        sequence=torch.randn(clips, 5, 8),
        mask=torch.ones(clips, 5, dtype=torch.bool),
        **fields,
    )


@pytest.mark.parametrize("net", NETS)
def test_a_clip_is_denoised_frame_by_frame(net) -> None:
    """Each frame of the output is what the network gives for that frame alone."""
    part, x = built(net), torch.randn(2, 4, 3, 4, 4)
    level, said = torch.tensor([200.0, 700.0]), told(2)
    whole = part(Tokens.canvas(Grid(3, 4, 4), 2).from_grid(x), level, said)
    for t in range(3):
        alone = part(Tokens.canvas(Grid(1, 4, 4), 2).from_grid(x[:, :, t : t + 1]), level, said)
        torch.testing.assert_close(whole.unflatten(1, (3, 16))[:, t], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("grid", [Grid(1, 5, 7), Grid(2, 1, 3), Grid(1, 6, 5)])
def test_any_size_comes_back(net, grid) -> None:
    part = built(net)
    x = Tokens.canvas(grid, 2).with_values(torch.randn(2, grid.cells, 4))
    out = part(x, torch.tensor([200.0, 700.0]), told(2))
    assert out.shape == (2, grid.cells, 4)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("net", NETS)
def test_cells_stand_beside_the_input(net) -> None:
    """Conditioning over the latent cells reaches the picture of its own frame and no other."""
    given = ConditioningFact(cells=2)
    part = built(net, given, TokenFact(width=16, grid=Grid(2, 4, 4), channels=4, patch=(1, 2, 2)))
    x = Tokens.canvas(Grid(2, 4, 4), 1).with_values(torch.randn(1, 32, 16))
    cells = torch.randn(1, 2, 2, 8, 8)
    level = torch.tensor([300.0])
    base = part(x, level, Conditioning(cells=cells))
    cells[:, :, 1] += 1
    other = part(x, level, Conditioning(cells=cells))
    assert torch.equal(base[:, :16], other[:, :16])
    assert not torch.allclose(base[:, 16:], other[:, 16:])


@pytest.mark.parametrize("net", NETS)
def test_a_vector_per_frame_reaches_that_frame(net) -> None:
    part = built(net, ConditioningFact(per_frame=3))
    x = Tokens.canvas(Grid(2, 4, 4), 1).with_values(torch.randn(1, 32, 4))
    frames, level = torch.randn(1, 2, 3), torch.tensor([300.0])
    base = part(x, level, Conditioning(per_frame=frames))
    frames[:, 1] += 1
    other = part(x, level, Conditioning(per_frame=frames))
    assert torch.equal(base[:, :16], other[:, :16])
    assert not torch.allclose(base[:, 16:], other[:, 16:])


# At first


@pytest.mark.parametrize("net", [DdpmUNet, Adm, LdmUNet])
def test_the_output_is_zero_at_first_and_blocks_are_identities(net) -> None:
    torch.manual_seed(0)
    part = net(TOKEN, GIVEN, Straight(), **net.tiny)
    x = Tokens.canvas(GRID, 2).with_values(torch.randn(2, GRID.cells, 4))
    assert (part(x, torch.tensor([1.0, 900.0]), told(2)) == 0).all()
    y = torch.randn(2, 16, 4, 4)
    for module in part.modules():
        if isinstance(module, blocks.Residual) and module.norm1.num_channels == 16 and module.resample == "none":
            said = torch.randn(2, module.told.in_features)
            assert torch.equal(module(y, said), module.skip(y))
        if isinstance(module, (blocks.Attention, Transformer)):
            channels = module.norm.num_channels
            z = torch.randn(2, channels, 4, 4)
            assert torch.equal(module(z, torch.randn(2, 5, 8), None), z)


def test_a_moved_gate_is_no_identity() -> None:
    block = blocks.Residual(16, 16, 8)
    y, said = torch.randn(2, 16, 4, 4), torch.randn(2, 8)
    with torch.no_grad():
        block.conv2.bias.add_(0.1)  # type: ignore[union-attr]
    assert not torch.equal(block(y, said), y)


def test_scale_is_one_plus_what_is_told() -> None:
    """With zero told, the second norm passes unscaled."""
    block = blocks.Residual(16, 16, 8)
    with torch.no_grad():
        block.told.weight.zero_()
        block.told.bias.zero_()
        block.conv2.weight.normal_()
    y = torch.randn(2, 16, 4, 4)
    silu = nn.functional.silu
    expected = y + block.conv2(silu(block.norm2(block.conv1(silu(block.norm1(y))))))
    torch.testing.assert_close(block(y, torch.randn(2, 8)), expected)


def test_sizes_change_after_the_norm_and_before_the_convolution() -> None:
    block = blocks.Residual(8, 8, 4, resample="down")
    y = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(block(y, torch.zeros(2, 4)), nn.functional.avg_pool2d(y, 2))
    up = blocks.Residual(8, 8, 4, resample="up")
    torch.testing.assert_close(up(y, torch.zeros(2, 4)), y.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_prompt_is_a_set_to_the_ldm_unet() -> None:
    """Permuting the prompt's features changes nothing, changing one does; masked ones do not count."""
    part = built(LdmUNet, ConditioningFact(sequence=8, length=5))
    x = Tokens.canvas(GRID, 1).with_values(torch.randn(1, GRID.cells, 4))
    sequence, level = torch.randn(1, 5, 8), torch.tensor([500.0])
    mask = torch.tensor([[True, True, True, True, False]])

    def out(s: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return part(x, level, Conditioning(sequence=s, mask=m))

    base = out(sequence, mask)
    order = torch.tensor([2, 4, 0, 1, 3])
    torch.testing.assert_close(base, out(sequence[:, order], mask[:, order]), atol=1e-5, rtol=1e-4)
    changed = sequence.clone()
    changed[:, 4] += 1
    assert torch.equal(base, out(changed, mask))
    changed[:, 0] += 1
    assert not torch.allclose(base, out(changed, mask))


def test_augmentation_numbers_of_zero_are_none() -> None:
    for net in (DdpmPlusPlus, NcsnPlusPlus):
        part = built(net, ConditioningFact(augmented=9))
        x = Tokens.canvas(GRID, 2).with_values(torch.randn(2, GRID.cells, 4))
        level = torch.tensor([0.1, 0.5])
        base = part(x, level, Conditioning())
        assert torch.equal(base, part(x, level, Conditioning(augmented=torch.zeros(2, 9))))
        assert not torch.allclose(base, part(x, level, Conditioning(augmented=torch.ones(2, 9))))


# Counts


class Wide(LevelProcess):
    """Asks for `times` the channels."""

    kind = "noise"

    def __init__(self, times: int) -> None:
        self.times = times

    def coefficients(self, level):
        return 1 - level, level

    def output_width(self, tokens: TokenFact) -> int:
        return self.times * tokens.width


IMPROVED = {"multipliers": (1, 2, 3, 4), "depth": 3, "attend": (4, 8), "heads": 4, "resample": "convolution"}
COUNTS = {
    "ddpm cifar10": (DdpmUNet, {}, {}, 1, 35_746_307),
    "ddpm 256": (DdpmUNet, {"multipliers": (1, 1, 2, 2, 4, 4), "attend": (16,)}, {}, 1, 113_673_219),
    "improved ddpm 64, 64 channels": (Adm, {"width": 64, **IMPROVED}, {}, 2, 30_303_494),
    "improved ddpm 64, 128 channels": (Adm, {"width": 128, **IMPROVED}, {}, 2, 121_063_942),
    "adm 64": (Adm, {}, {"pooled": 1000}, 2, 295_904_454),
    "edm imagenet-64": (Adm, {}, {"pooled": 1000}, 1, 295_899_267),
    "ddpm++ cifar": (DdpmPlusPlus, {}, {"augmented": 9}, 1, 55_733_891),
    "ddpm++ cifar, classes": (DdpmPlusPlus, {}, {"augmented": 9, "pooled": 10}, 1, 55_735_299),
    "ldm celeba": (LdmUNet, {"width": 224, "multipliers": (1, 2, 3, 4)}, {}, 1, 274_056_163),
    "ldm imagenet": (LdmUNet, {"heads": 1}, {"pooled": 512}, 1, 400_920_579),
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_the_published_ones(name) -> None:
    net, settings, given, times, expected = COUNTS[name]
    token = TokenFact(width=3, grid=Grid(1, 32, 32), channels=3)
    with torch.device("meta"):
        part = net(token, ConditioningFact(**given), Wide(times), **settings)
    assert sum(p.numel() for p in part.parameters()) == expected


@pytest.mark.slow
@pytest.mark.parametrize("net", NETS)
def test_the_whole_network_is_one_graph(net) -> None:
    """torch.compile traces it without a break, and gives the same."""
    part, x, level, said = built(net), Tokens.canvas(GRID, 2), torch.tensor([200.0, 700.0]), told(2)
    x = x.with_values(torch.randn(2, GRID.cells, 4))
    with torch.no_grad():
        expected = part(x, level, said)
        made = torch.compile(part, backend="aot_eager", fullgraph=True)(x, level, said)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-4)
