"""Video LDM: the image model within, what learns, known frames, the decoder, patches of space and time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mutoscope.core.checks import LATENT, Straight
from mutoscope.core.denoiser import PictureDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ClipFact, ConditioningFact, FieldFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Latents, Tokens
from mutoscope.plugins.autoencoders.kl import Kl
from mutoscope.plugins.autoencoders.reconstruction import ReconstructionObjective
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.unets.ldm_unet import LdmUNet
from mutoscope.plugins.video_diffusion.between import Mixed, TimeTransformer, UnderWay
from mutoscope.plugins.video_diffusion.decoder_only import DecoderOnly
from mutoscope.plugins.video_diffusion.masked_frames import MaskedFrames
from mutoscope.plugins.video_diffusion.on_frames import OnFrames
from mutoscope.plugins.video_diffusion.patch3d import Patch3d
from mutoscope.plugins.video_diffusion.time_only import TimeOnly
from mutoscope.plugins.video_diffusion.video_decoder import VideoDecoder
from mutoscope.plugins.video_diffusion.video_ldm import VideoLdm

GRID = Grid(3, 4, 4)
FACT = TokenFact(width=4, grid=GRID, channels=4)
GIVEN = ConditioningFact(sequence=8, length=5)


def stirred(part: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part.eval()


def image(given: ConditioningFact = GIVEN, **settings) -> PictureDenoiser:
    said = {"width": 16, "multipliers": (1, 2), "depth": 1, "attend": (2,), "head_width": 8, **settings}
    return LdmUNet(FACT, replace(given, cells=0), Straight(), **said)


def video(given: ConditioningFact = GIVEN) -> VideoLdm:
    return stirred(VideoLdm(FACT, given, Straight(), image=image(given), head_width=8, context=8))  # type: ignore[return-value]


def shares(network: nn.Module, logit: float) -> None:
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Mixed):
                module.logit.fill_(logit)


def tokens_of(grid: Grid = GRID, clips: int = 2) -> Tokens:
    values = torch.randn(clips, grid.cells, 4, generator=torch.Generator().manual_seed(1))
    return Tokens.canvas(grid, clips).with_values(values)


def told(clips: int = 2) -> Conditioning:
    sequence = torch.randn(clips, 5, 8, generator=torch.Generator().manual_seed(2))
    return Conditioning(sequence=sequence, mask=torch.ones(clips, 5, dtype=torch.bool))


LEVEL = torch.tensor([200.0, 700.0])


def test_with_alpha_one_it_is_the_image_model_frame_by_frame() -> None:
    """Exactly; and its frames may then change places. With a smaller alpha frames meet."""
    network, tokens, said = video(), tokens_of(), told()
    shares(network, 1e4)
    frames = Tokens.canvas(Grid(1, 4, 4), 6).with_values(tokens.filled().view(6, 16, 4))
    each = Conditioning(sequence=said.sequence.repeat_interleave(3, 0), mask=said.mask.repeat_interleave(3, 0))  # type: ignore[union-attr]
    network.under_way.frames = 1
    alone = network.image(frames, LEVEL.repeat_interleave(3), each).view(2, 48, 4)
    made = network(tokens, LEVEL, said)
    assert torch.equal(made, network.image(tokens, LEVEL, said)), "the hooks are at work in both"
    torch.testing.assert_close(made, alone, atol=1e-6, rtol=1e-6)

    def turned(values: torch.Tensor) -> torch.Tensor:
        return values.view(2, 3, 16, 4).roll(1, dims=1).flatten(1, 2)

    moved = network(tokens.with_values(turned(tokens.filled())), LEVEL, said)
    torch.testing.assert_close(moved, turned(made), atol=1e-6, rtol=1e-6)
    shares(network, 0.0)
    mixed = network(tokens, LEVEL, said)
    assert not torch.allclose(mixed, alone, atol=1e-3)
    moved = network(tokens.with_values(turned(tokens.filled())), LEVEL, said)
    assert not torch.allclose(moved, turned(mixed), atol=1e-3), "the order of frames makes no difference"


class Triple(nn.Module):
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return 3 * z


def test_alpha_is_the_share_of_the_image_model() -> None:
    layer = Mixed(Triple())
    with torch.no_grad():
        layer.logit.fill_(2.0)
    alpha = 1 / (1 + torch.tensor(-2.0).exp())
    z = torch.ones(1, 1, 1, 1, 1)
    torch.testing.assert_close(layer(z), (alpha + 3 * (1 - alpha)) * z)


def test_frames_meet_through_every_layer_of_time() -> None:
    """A change of one frame reaches the others, and an untrained network starts as the image model."""
    fresh = VideoLdm(FACT, GIVEN, Straight(), image=image(), head_width=8).eval()
    stirred(fresh.image)
    tokens, said = tokens_of(), told()
    made = fresh(tokens, LEVEL, said)
    shares(fresh, 1e4)
    torch.testing.assert_close(fresh(tokens, LEVEL, said), made, atol=1e-5, rtol=1e-5)
    layers = fresh.image.layers()
    assert len(layers) == len(fresh.time) == 8 + 4
    assert sum(layer.told == 0 for layer in layers) == 4
    assert layers[0].stride == 1
    assert max(layer.stride for layer in layers) == 2


def test_an_image_is_the_image_model() -> None:
    network = video()
    tokens = tokens_of(Grid(1, 4, 4))
    made = network(tokens, LEVEL, told())
    made.square().sum().backward()
    assert all(p.grad is None for p in network.time.parameters())
    assert all(p.grad is not None for name, p in network.image.named_parameters() if "bias" not in name)


def test_training_leaves_the_image_model_to_the_last_bit() -> None:
    network, objective = video(), TimeOnly(FACT, objective=Ddpm(schedule="root"))
    network.train()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    objective.restrict(network)
    learning = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    said = replace(told(), sequence=told().sequence.requires_grad_(True))  # type: ignore[union-attr]
    for step in range(3):
        loss = objective.loss(network, Example(tokens_of(), said, Batch()), Draw(0, "t", step, (0, 1)), "learner")
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, parameter in network.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same == name.startswith("image."), name
    assert said.sequence is not None
    assert said.sequence.grad is None, "conditioners learn too"


def test_layers_of_time_have_the_published_counts() -> None:
    """A transformer over time of C channels and a context of c: 38 C^2 + 33 C + 2 c C, which gives 397,620,480 and
    99,185,600 over Stable Diffusion's sixteen."""
    for channels, context in ((16, 8), (32, 24)):
        part = TimeTransformer(channels, context, 2)
        assert sum(p.numel() for p in part.parameters()) == 38 * channels**2 + 33 * channels + 2 * context * channels
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    assert sum(30 * c**2 + 28 * c + 2 * 1024 * c for c in widths) == 397_620_480
    assert sum(8 * c**2 + 5 * c for c in widths) == 99_185_600


def test_a_prompt_reaches_the_layers_of_time_and_padding_does_not() -> None:
    part, x, way = stirred(TimeTransformer(16, 8, 2)), torch.randn(2, 16, 3, 2, 2), UnderWay()
    context, mask = torch.randn(2, 5, 8).repeat_interleave(3, 0), torch.ones(6, 1, 1, 5, dtype=torch.bool)
    mask[3:, ..., 2:] = False
    one = part(x, way, context, mask)
    padded = context.clone()
    padded[3:, 2:] = 7.0
    torch.testing.assert_close(part(x, way, padded, mask), one)
    padded[3:, :2] = 7.0
    assert not torch.allclose(part(x, way, padded, mask)[1], one[1])


# Known frames


def masked(**settings) -> MaskedFrames:
    return MaskedFrames(replace(LATENT, grid=Grid(6, 4, 4)), replace(FACT, grid=Grid(6, 4, 4)), **settings)


def test_known_frames_are_those_drawn_with_their_mask() -> None:
    part, draw = masked(frames=(0, 1, 2)).train(), Draw(0, "t", 0, tuple(range(300)))
    z = torch.randn(300, 4, 6, 4, 4)
    said = part.embed(Batch(latents=Latents(z)), draw)
    assert said.cells is not None
    mask = said.cells[:, 4]
    assert torch.equal(said.cells[:, :4], z * mask[:, None])
    counts = mask[:, :, 0, 0].sum(1)
    for n in (0, 1, 2):
        assert 70 < int((counts == n).sum()) < 130
    assert torch.equal(mask[:, :, 0, 0], (torch.arange(6)[None] < counts[:, None]).float())
    assert said.null is not None
    assert said.null.cells is not None
    assert said.null.cells.abs().max() == 0


def test_every_kth_frame_is_known_and_which_k_is_said() -> None:
    part = masked(frames=(2, 3), places="every").train()
    said = part.embed(Batch(latents=Latents(torch.ones(50, 4, 6, 4, 4))), Draw(0, "t", 0, tuple(range(50)))).cells
    assert said is not None
    assert said.shape[1] == 6
    rows = {(tuple(clip[4, :, 0, 0].int().tolist()), float(clip[5, 0, 0, 0])) for clip in said}
    assert rows == {((1, 0, 1, 0, 1, 0), 0.5), ((1, 0, 0, 1, 0, 0), 1.0)}
    with pytest.raises(ValueError, match="at least 1"):
        masked(frames=(0, 2), places="every")


def test_in_sampling_frames_are_known_where_all_of_their_tokens_are() -> None:
    part = masked().eval()
    values, where = torch.randn(1, 96, 4), torch.zeros(1, 96, dtype=torch.bool)
    where[0, :16] = True
    where[0, 16:20] = True
    said = part.embed(Batch(known=Known(values, where)), Draw(0, "s", 0, (0,))).cells
    assert said is not None
    assert said[0, 4, :, 0, 0].tolist() == [1, 0, 0, 0, 0, 0]
    torch.testing.assert_close(said[0, :4, 0], values[0, :16].T.view(4, 4, 4))
    assert part.embed(Batch(), Draw(0, "s", 0, (0,))).cells.abs().max() == 0  # type: ignore[union-attr]
    with pytest.raises(InputError, match="latent cells"):
        part.embed(Batch(known=Known(values[:, :48], where[:, :48])), Draw(0, "s", 0, (0,)))


def test_known_frames_reach_the_layers_of_time_alone() -> None:
    given = replace(GIVEN, cells=5)
    network, tokens = video(given), tokens_of()
    cells = torch.randn(2, 5, 3, 4, 4)
    one, other = (network(tokens, LEVEL, replace(told(), cells=c)) for c in (cells, cells + 1))
    assert not torch.allclose(one, other)
    shares(network, 1e4)
    one, other = (network(tokens, LEVEL, replace(told(), cells=c)) for c in (cells, cells + 1))
    assert torch.equal(one, other)


# The decoder


def decoder() -> VideoDecoder:
    clip = ClipFact(3, 3, (8, 8))
    return stirred(VideoDecoder(clip, image=Kl(clip, channels=4, width=8, multipliers=(1, 2), depth=1)))  # type: ignore[return-value]


def test_the_decoder_sees_other_frames_and_the_encoder_does_not() -> None:
    part, clip = decoder(), torch.rand(1, 3, 3, 8, 8) * 2 - 1
    latents = part.encode(clip)
    assert torch.equal(latents.values, part.image.encode(clip).values)
    assert isinstance(latents.values, torch.Tensor)
    changed = latents.values.clone()
    changed[:, :, 2] += 1.0
    one, other = part.decode(latents), part.decode(Latents(changed))
    assert not torch.allclose(one[:, :, 0], other[:, :, 0], atol=1e-4)
    single = part.decode(Latents(latents.values[:, :, :1]))
    assert not torch.allclose(single, one[:, :, :1], atol=1e-4)
    shares(part, 1e4)
    torch.testing.assert_close(part.decode(latents)[:, :, :1], single, atol=1e-5, rtol=1e-5)


def test_the_decoder_learns_and_the_encoder_stays() -> None:
    part, objective = decoder(), DecoderOnly(objective=ReconstructionObjective())
    before = {name: p.detach().clone() for name, p in part.named_parameters()}
    objective.restrict(part)
    optimizer = torch.optim.AdamW([p for p in part.parameters() if p.requires_grad], lr=1e-2)
    batch = Batch(video=torch.rand(2, 3, 3, 8, 8) * 2 - 1)
    objective.loss(part, Example(None, Conditioning(), batch), Draw(0, "t", 0, (0, 1)), "learner").total.backward()
    optimizer.step()
    for name, parameter in part.named_parameters():
        held = name.startswith(("image.encoder", "image.posterior"))
        assert torch.equal(parameter, before[name]) == held, name


def test_single_frames_teach_the_image_autoencoder_alone() -> None:
    part, objective = decoder(), OnFrames(objective=ReconstructionObjective())
    batch = Batch(video=torch.rand(2, 3, 3, 8, 8) * 2 - 1)
    objective.loss(part, Example(None, Conditioning(), batch), Draw(0, "t", 0, (0, 1)), "learner").total.backward()
    assert all(p.grad is None for p in part.time.parameters())
    assert all(p.grad is not None for p in part.image.decoder.parameters())


def test_the_discriminator_looks_at_time() -> None:
    """Frames that change places change its scores; a discriminator of pictures gives the same, in another order."""
    part = stirred(Patch3d(FieldFact(3, 4, (16, 16)), width=8, depth=1))
    clip = torch.rand(1, 3, 4, 16, 16)
    one, other = (part(x, Conditioning()) for x in (clip, clip[:, :, [0, 2, 1, 3]]))
    assert not torch.allclose(one.sort().values, other.sort().values, atol=1e-4)
