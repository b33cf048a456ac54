"""Imagen Video: velocities, images, corruption, guidance that oscillates, thresholds, distillation, crops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mutoscope.core.checks import Bench, Straight
from mutoscope.core.denoiser import LevelDenoiser
from mutoscope.core.errors import InputError
from mutoscope.core.facts import ConditioningFact, EarlierFact, LatentFact, TokenFact
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Batch, Conditioning, Example, Grid, Known, Tokens
from mutoscope.plugins.video_diffusion.continuous import Continuous, CosineProcess
from mutoscope.plugins.video_diffusion.distil import Distil
from mutoscope.plugins.video_diffusion.distilled import Distilled
from mutoscope.plugins.video_diffusion.frames import TimeAttention, TimeConvolution
from mutoscope.plugins.video_diffusion.noisy_earlier import NoisyEarlier
from mutoscope.plugins.video_diffusion.on_crops import OnCrops
from mutoscope.plugins.video_diffusion.oscillating import Oscillating
from mutoscope.plugins.video_diffusion.video_unet import VideoUNet

GRID = Grid(3, 4, 6)
FACT = TokenFact(width=3, grid=GRID, channels=3)
PIXELS = LatentFact(channels=3, stride=(1, 1, 1), grid=GRID, pixels=(0.0, 1.0))


def stirred(part: nn.Module, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return part.eval()


def unet(**settings) -> VideoUNet:
    said = {"width": 16, "multipliers": (1, 2), "depth": (1, 1), "attend": (2,), "head_width": 8, **settings}
    return stirred(VideoUNet(FACT, ConditioningFact(), Straight(), **said))  # type: ignore[return-value]


def tokens_of(grid: Grid = GRID, clips: int = 2, seed: int = 1, width: int = 3) -> Tokens:
    values = torch.randn(clips, grid.cells, width, generator=torch.Generator().manual_seed(seed))
    return Tokens.canvas(grid, clips).with_values(values)


class Gaussian(LevelDenoiser):
    """The exact velocity of data N(mean, spread^2); the mean is the pooled number, or 0 where nothing is told."""

    name = ""

    def __init__(self, spread: float = 0.5) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))
        self.seen: list[Tensor] = []

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.seen.append(tokens.filled())
        a, s = CosineProcess().per_token(tokens, level / 1000)
        mean = 0.0 if conditioning.pooled is None else conditioning.pooled[:, None]
        x, v = tokens.filled(), self.spread**2
        x0 = mean + a * v / (a * a * v + s * s) * (x - a * mean)
        eps = s / (a * a * v + s * s) * (x - a * mean)
        return a * eps - s * x0


def test_velocities_turn_back_into_data_and_noise() -> None:
    """The round trip is exact: v = a eps - s x, and from it x = a z - s v and eps = s z + a v; another sign is not."""
    process, x = CosineProcess(), tokens_of(clips=64)
    x = x.with_values(x.filled().double())
    eps = torch.randn(x.filled().shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    level = torch.linspace(0.0, 1.0, 64, dtype=torch.float64)
    z, (a, s) = process.noised(x, eps, level), process.per_token(x, level)
    said = process.prediction(a * eps - s * x.filled(), z, level)
    torch.testing.assert_close(said.as_clean(), x.filled(), atol=1e-12, rtol=0)
    torch.testing.assert_close(said.as_noise(), eps, atol=1e-12, rtol=0)
    wrong = process.prediction(s * x.filled() - a * eps, z, level)
    assert (wrong.as_clean() - x.filled()).abs().mean() > 0.5
    torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))


def test_the_loss_is_the_error_of_the_velocity() -> None:
    """Of the exact network it is the variance that noisy values leave of the data, over s^2, averaged over times."""
    tokens = tokens_of(Grid(1, 4, 4), 4000)
    tokens = tokens.with_values(0.5 * tokens.filled())
    draw = Draw(0, "t", 0, tuple(range(4000)))
    with torch.no_grad():
        error = float(Continuous().loss(Gaussian(), Example(tokens, Conditioning(), Batch()), draw, "learner").total)
    t = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    a, s = CosineProcess().coefficients(t)
    # Var(x0 | z) = v s^2 / (a^2 v + s^2), and v = (a z - x0) / s.
    left = float((0.25 * s**2 / (a**2 * 0.25 + s**2) / s**2).mean())
    assert error == pytest.approx(left, rel=0.03)


@pytest.mark.parametrize("time", ["attention", "convolution"])
def test_a_batch_of_images_is_the_video_with_time_masked(time: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames as clips of their own give what the video's frames give where every layer of time keeps frames apart."""
    network, video = unet(time=time), tokens_of()
    level = torch.tensor([200.0, 700.0])
    frames = video.filled().view(6, 24, 3)
    images = Tokens.canvas(Grid(1, 4, 6), 6).with_values(frames)
    alone = network(images, level.repeat_interleave(3), Conditioning()).view(2, 72, 3)
    mixed = network(video, level, Conditioning())
    assert not torch.allclose(mixed, alone, atol=1e-3), "frames of a video never meet"
    for kind in (TimeAttention, TimeConvolution):
        whole = kind.forward

        def masked(self: nn.Module, x: Tensor, whole=whole) -> Tensor:
            b, _, t = x.shape[:3]
            one = whole(self, x.transpose(1, 2).flatten(0, 1)[:, :, None])
            return one[:, :, 0].unflatten(0, (b, t)).transpose(1, 2)

        monkeypatch.setattr(kind, "forward", masked)
    torch.testing.assert_close(network(video, level, Conditioning()), alone, atol=1e-5, rtol=1e-5)


def test_base_attends_over_time_and_others_convolve_nearby() -> None:
    """A frame reaches any other by attention; by one convolution only its neighbours."""
    x = torch.randn(1, 16, 7, 2, 2, requires_grad=True)
    for part, near in ((TimeAttention(16, 2, 7), 6), (TimeConvolution(16), 1)):
        stirred(part)
        (gradient,) = torch.autograd.grad(part(x)[0, :, 0].sum(), x)
        reached = gradient.abs().sum((0, 1, 3, 4)) > 0
        assert reached.tolist() == [t <= near for t in range(7)]
    kinds = {time: {type(m) for m in unet(time=time).modules()} for time in ("attention", "convolution")}
    assert TimeAttention in kinds["attention"]
    assert TimeConvolution not in kinds["attention"]
    assert TimeAttention not in kinds["convolution"]
    assert TimeConvolution in kinds["convolution"]


def test_without_attention_the_network_is_convolutional() -> None:
    """Away from the edges a shifted picture is a shifted answer, as learning from crops needs; attention breaks it."""
    grid = Grid(1, 32, 32)
    tokens = tokens_of(grid, 1)
    moved = tokens.from_grid(tokens.as_grid().roll((4, 4), (-2, -1)))
    level = torch.tensor([400.0])
    for attend in ((), (2,)):
        network = unet(attend=attend, time="convolution")
        for module in network.modules():  # statistics of whole pictures do not depend on the shift under a roll
            if isinstance(module, nn.Conv2d):
                module.padding_mode = "circular"
                module._reversed_padding_repeated_twice = [n for n in module.padding[::-1] for _ in range(2)]
        one, other = (network(t, level, Conditioning()) for t in (tokens, moved))
        expected = tokens.from_grid(tokens.with_values(one).as_grid().roll((4, 4), (-2, -1))).filled()
        torch.testing.assert_close(other, expected, atol=1e-4, rtol=1e-4)
    assert not any("Attention" in type(m).__name__ for m in unet(attend=(), time="convolution").modules())


def noisy(training: bool, **settings) -> tuple[NoisyEarlier, Conditioning, Tensor, Draw]:
    part = NoisyEarlier(EarlierFact(3, 3, (4, 6)), LatentFact(3, (1, 1, 1), Grid(3, 4, 6)), **settings)
    video, draw = 0.8 * torch.ones(500, 3, 3, 4, 6), Draw(0, "t", 0, tuple(range(500)))
    return part, part.train(training).embed(Batch(earlier=video), draw), video, draw


def test_the_earlier_video_is_corrupted_at_the_level_that_is_told() -> None:
    """In sampling at the signal-to-noise ratio asked for; in training at all levels, each told to the network."""
    for snr in (3.0, 5.0):
        _, told, video, _ = noisy(False, snr=snr)
        assert told.cells is not None
        signal = told.cells.mean() / video.mean()
        noise = (told.cells - told.cells.mean()).square().mean()
        assert float(signal**2 / noise) == pytest.approx(snr, rel=0.03)
        assert float(signal**2 + noise) == pytest.approx(1.0, rel=0.02)
        assert told.pooled is not None
        assert torch.equal(told.pooled, told.pooled[:1].expand_as(told.pooled))
    _, told, video, draw = noisy(True)
    assert told.cells is not None
    assert told.pooled is not None
    noise = (told.cells - told.cells.mean((1, 2, 3, 4), keepdim=True)).square().mean((1, 2, 3, 4))
    u = draw.uniform("corruption").view(-1)
    torch.testing.assert_close(noise, (u * math.pi / 2).sin() ** 2, atol=0.2, rtol=0.2)
    assert len(told.pooled.unique(dim=0)) == 500
    assert noise.min() < 0.01
    assert noise.max() > 0.9


def test_frames_between_are_repeated_or_blank() -> None:
    video = torch.arange(2.0).view(1, 1, 2, 1, 1).expand(1, 3, 2, 2, 3)
    fact, latents = EarlierFact(3, 2, (2, 3)), LatentFact(3, (1, 1, 1), Grid(4, 4, 6))
    repeated = NoisyEarlier(fact, latents)(video)
    assert repeated.shape == (1, 3, 4, 4, 6)
    assert repeated[0, 0, :, 0, 0].tolist() == [0, 0, 1, 1]
    blank = NoisyEarlier(fact, latents, fill="blank")(video + 1)
    assert blank.shape == (1, 4, 4, 4, 6)
    assert blank[0, 0, :, 0, 0].tolist() == [1, 0, 2, 0]
    assert blank[0, 3, :, 0, 0].tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="no whole ratio"):
        NoisyEarlier(EarlierFact(3, 3, (2, 3)), latents)


def test_guidance_is_strong_at_first_and_then_oscillates() -> None:
    part = Oscillating(PIXELS, FACT, CosineProcess(), steps=8, guidance=15.0, weak=1.0, constant=3)
    assert part.scales() == [15, 15, 15, 1, 15, 1, 15, 1]
    assert part.calls(Tokens.canvas(GRID, 1)) == 8 + 5
    told = Conditioning(pooled=torch.full((2, 1), 0.3), null=Conditioning(pooled=torch.zeros(2, 1)))
    network = Gaussian()
    with torch.no_grad():
        part.sample(network, Tokens.canvas(GRID, 2), told, Draw(0, "s", 0, (0, 1)))
    assert len(network.seen) == 13
    with pytest.raises(InputError, match="told nothing"):
        part.sample(network, Tokens.canvas(GRID, 2), Conditioning(), Draw(0, "s", 0, (0, 1)))


def test_without_guidance_and_bound_it_is_ddim() -> None:
    from mutoscope.plugins.diffusion.ddim import Ddim

    settings = {"guidance": 1.0, "weak": 1.0, "threshold": 0.0}
    for eta in (0.0, 1.0):
        ours = Oscillating(PIXELS, FACT, CosineProcess(), steps=7, eta=eta, **settings)
        theirs = Ddim(FACT, CosineProcess(), steps=7, eta=eta)
        draw = Draw(0, "s", 0, (0, 1))
        with torch.no_grad():
            one, other = (p.sample(Gaussian(), Tokens.canvas(GRID, 2), Conditioning(), draw) for p in (ours, theirs))
        torch.testing.assert_close(one.filled(), other.filled(), atol=1e-4, rtol=1e-4)


def test_what_is_over_the_quantile_is_clamped_and_all_is_divided_by_it() -> None:
    """Dynamic thresholding, clip by clip, against numpy's quantile; what is within the range stays."""
    part = Oscillating(PIXELS, FACT, CosineProcess(), threshold=0.9)
    clean = tokens_of(clips=3).filled() * torch.tensor([0.2, 1.0, 5.0])[:, None, None]
    canvas, bounded = Tokens.canvas(GRID, 3), part.bounded(clean, Tokens.canvas(GRID, 3))
    assert torch.equal(bounded[0], clean[0])
    for k in (1, 2):
        s = max(float(torch.quantile(clean[k].abs(), 0.9)), 1.0)
        torch.testing.assert_close(bounded[k], clean[k].clamp(-s, s) / s)
        assert bounded[k].abs().max() <= 1 + 1e-6
    shifted = LatentFact(channels=3, stride=(1, 1, 1), grid=GRID, pixels=(0.85, 2.5))
    inner = Oscillating(shifted, FACT, CosineProcess(), threshold=0.9).bounded((clean - 0.85) * 2.5, canvas)
    torch.testing.assert_close(inner / 2.5 + 0.85, bounded, atol=1e-5, rtol=1e-5)


# Distillation


def distil(**settings) -> Distil:
    return Distil(CosineProcess(), **{"guidance": 3.0, "fold": 10, "start": 32, "until": 8, "each": 5, **settings})


def test_rounds_follow_each_other() -> None:
    part = distil()
    assert part.students == [16, 8]
    assert [part.round_at(step) for step in (0, 9, 10, 14, 15, 19, 100)] == [0, 0, 1, 1, 2, 2, 2]
    assert distil(fold=0).round_at(0) == 1
    with pytest.raises(InputError, match="doubled"):
        distil(start=24)


def test_the_first_round_learns_the_guided_prediction() -> None:
    part, network, x = distil(), Gaussian(), tokens_of(clips=2)
    told = Conditioning(pooled=torch.full((2, 1), 0.7), null=Conditioning(pooled=torch.zeros(2, 1)))
    level = torch.tensor([0.3, 0.8])
    ask = part._asking(network)
    aim = part.guided(ask, x, level, told)
    own, null = ask(x, level, told), ask(x, level, Conditioning(pooled=torch.zeros(2, 1)))
    torch.testing.assert_close(
        aim.as_velocity(), null.as_velocity() + 3.0 * (own.field - null.field), atol=1e-4, rtol=1e-4
    )


def ddim(network: LevelDenoiser, x: Tensor, times: list[float]) -> Tensor:
    """Deterministic steps through times, with the network's own predictions."""
    process, canvas = CosineProcess(), Tokens.canvas(Grid(1, 1, x.shape[1]), len(x))
    for now, then in zip(times, times[1:], strict=False):
        said = process.predict(network, canvas.with_values(x), torch.full((len(x),), now), Conditioning())
        a, s = process.coefficients(torch.tensor(then))
        x = a * said.as_clean() + s * said.as_noise()
    return x


@pytest.mark.parametrize("number", [1, 3, 8])
def test_a_student_of_the_aim_goes_in_one_step_where_the_teacher_goes_in_two(number: int) -> None:
    part, teacher = distil(), Gaussian()
    canvas = Tokens.canvas(Grid(1, 1, 50), 2)
    x, t = torch.randn(2, 50, 1, generator=torch.Generator().manual_seed(3)), number / 8
    level = torch.full((2,), t)
    with torch.no_grad():
        aim = part.halved(part._asking(teacher), canvas.with_values(x), level, 8, Conditioning())
        two, one = ddim(teacher, x, [t, t - 1 / 16, t - 1 / 8]), ddim(teacher, x, [t, t - 1 / 8])
    a, s = CosineProcess().coefficients(torch.tensor(t - 1 / 8))
    student = a * aim.as_clean() + s * aim.as_noise()
    torch.testing.assert_close(student, two, atol=1e-4, rtol=1e-4)
    assert (one - two).abs().max() > 100 * (student - two).abs().max()


class Small(LevelDenoiser):
    """A velocity from the noisy value and the level alone, token by token."""

    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        x, t = tokens.filled(), (level / 1000)[:, None, None].expand(-1, tokens.filled().shape[1], 1)
        return self.layers(torch.cat([x, t, (3 * t).sin(), (3 * t).cos()], dim=-1))


def test_one_step_of_the_trained_student_is_nearer_to_two_of_the_teacher() -> None:
    """Nearer than one step of the teacher is: data of two values, four steps made of eight."""
    torch.manual_seed(0)
    network, clips = Small(), 16
    canvas = Tokens.canvas(Grid(1, 1, 32), clips)
    objectives = (Continuous(), distil(guidance=1.0, fold=0, start=8, until=4, each=1))
    frozen: dict[str, Tensor] = {}
    for objective, steps in zip(objectives, (400, 200), strict=True):
        frozen = {name: p.detach().clone() for name, p in network.state_dict().items()}
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for step in range(steps):
            draw = Draw(1, objective.name, step, tuple(range(clips)))
            data = (draw.uniform("data", 32, 1) > 0.5).float() * 2 - 1
            example = Example(canvas.with_values(data), Conditioning(), Batch())
            optimizer.zero_grad()
            objective.loss(network, example, draw, "learner").total.backward()
            optimizer.step()
    teacher = Small()
    teacher.load_state_dict(frozen)
    distance = {"student": 0.0, "teacher": 0.0}
    x = torch.randn(clips, 32, 1)
    with torch.no_grad():
        for i in (4, 3, 2):
            t = i / 4
            two = ddim(teacher, x, [t, t - 1 / 8, t - 1 / 4])
            distance["student"] += float((ddim(network, x, [t, t - 1 / 4]) - two).square().mean())
            distance["teacher"] += float((ddim(teacher, x, [t, t - 1 / 4]) - two).square().mean())
            x = two
    assert distance["student"] < 0.3 * distance["teacher"], distance


def test_the_teacher_stays_for_a_round_and_is_saved_with_the_objective() -> None:
    part, network = distil(guidance=1.0), Small()
    example = Example(tokens_of(Grid(1, 1, 4), 2, width=1), Conditioning(), Batch())

    def learn(objective: Distil, step: int) -> None:
        objective.loss(network, example, Draw(0, "t", step, (0, 1)), "learner")

    learn(part, 0)
    first = {name: tensor.clone() for name, tensor in part.teacher.tensors.items()}
    assert set(first) == set(network.state_dict())
    with torch.no_grad():
        network.layers[0].weight.add_(1.0)
    learn(part, 9)
    assert all(torch.equal(tensor, first[name]) for name, tensor in part.teacher.tensors.items())
    again = distil(guidance=1.0)
    again.load_state_dict(part.state_dict())
    learn(again, 9)
    assert all(torch.equal(tensor, first[name]) for name, tensor in again.teacher.tensors.items())
    learn(again, 10)
    assert torch.equal(again.teacher.tensors["layers.0.weight"], network.layers[0].weight)
    assert not list(part.parameters())


def spread(steps: int) -> float:
    """Of the samples of exact predictions of N(0, 1/4): every step is linear, so that variances go step by step."""
    process = CosineProcess()
    a, s = (x.tolist() for x in process.coefficients(process.levels(steps)))
    variance = 1.0
    for i in range(steps):
        far, total = min(i + 2, steps), a[i] ** 2 / 4 + s[i] ** 2
        variance *= (a[far] * a[i] / 4 / total + s[far] * s[i] / total) ** 2
        if i + 1 < steps:
            r = a[i + 1] / a[far]
            variance = r**2 * variance + s[i + 1] ** 2 - (r * s[far]) ** 2
    return variance**0.5


def test_the_stochastic_sampler_goes_down_two_and_up_one() -> None:
    """Of exact predictions it has the spread that its definition gives, which in many steps is the data's."""
    assert spread(4096) == pytest.approx(0.5, rel=2e-3)
    canvas, fact = Tokens.canvas(Grid(1, 16, 16), 64), TokenFact(width=1, grid=Grid(1, 16, 16), channels=1)
    draw, network = Draw(0, "s", 0, tuple(range(64))), Gaussian(0.5)
    with torch.no_grad():
        for steps in (1, 2, 8, 16):
            made = Distilled(fact, CosineProcess(), steps=steps).sample(network, canvas, Conditioning(), draw)
            assert float(made.filled().std()) == pytest.approx(spread(steps), rel=0.02, abs=1e-5)
    assert len(network.seen) == 1 + 2 + 8 + 16


# Crops


class Marks(Continuous.__mro__[1]):  # an objective that keeps the example it is given
    name = ""

    def __init__(self) -> None:
        super().__init__()
        self.process = CosineProcess()
        self.kept: list[Example] = []

    def loss(self, learner, example, draw, turn):
        self.kept.append(example)
        return Continuous().loss(learner, example, draw, turn)


def test_crops_are_windows_of_the_clip_and_of_what_lies_beside_it() -> None:
    inner = Marks()
    part = OnCrops(FACT, objective=inner, size=(2, 3))
    tokens = tokens_of(clips=30)
    cells = tokens.as_grid() * 2
    known = Known(3 * tokens.filled(), tokens.filled()[..., 0] > 0)
    example = Example(tokens, Conditioning(cells=cells, known=known, null=Conditioning(cells=cells)), Batch())
    with torch.no_grad():
        part.loss(Gaussian(), example, Draw(0, "t", 0, tuple(range(30))), "learner")
    (seen,) = inner.kept
    assert seen.tokens is not None
    assert seen.tokens.grids == (Grid(3, 2, 3),) * 30
    crops, whole, places = seen.tokens.as_grid(), tokens.as_grid(), set()
    assert torch.equal(seen.conditioning.cells, 2 * crops)
    assert torch.equal(seen.conditioning.null.cells, 2 * crops)
    assert torch.equal(seen.conditioning.known.values, 3 * seen.tokens.filled())
    assert torch.equal(seen.conditioning.known.where, seen.tokens.filled()[..., 0] > 0)
    for b in range(30):
        found = [
            (y, x) for y in range(3) for x in range(4) if torch.equal(whole[b, :, :, y : y + 2, x : x + 3], crops[b])
        ]
        assert len(found) == 1
        places.update(found)
    assert len(places) > 8


@pytest.mark.slow
def test_it_compiles() -> None:
    bench = Bench(VideoUNet)
    network = bench.stirred()
    tokens, told, level = bench.tokens(), bench.conditioning(), torch.tensor([100.0, 500.0, 900.0])
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, level, told), network(tokens, level, told))
