"""Replacement with repeats against the conditional distribution of Gaussian data, which is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mutoscope.core.facts import TokenFact
from mutoscope.core.process import LevelProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.values import Conditioning, Grid, Known, Tokens
from mutoscope.plugins.diffusion.ancestral import Ancestral
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.flow import Flow
from mutoscope.plugins.diffusion.repaint import Repaint

RHO, GIVEN, CLIPS = 0.8, 1.5, 400
TOKEN = TokenFact(width=1, grid=Grid(2, 1, 1), channels=1)


class Exact(nn.Module):
    """The best denoiser of two tokens of unit variance with correlation RHO; gives what its process asks for."""

    def __init__(self, process: LevelProcess) -> None:
        super().__init__()
        self.process, self.calls, self.told = process, 0, []
        self.covariance = torch.tensor([[1.0, RHO], [RHO, 1.0]])

    def forward(self, tokens: Tokens, level: Tensor, conditioning: Conditioning) -> Tensor:
        self.calls += 1
        self.told.append(conditioning.known)
        a, s = self.process.coefficients(level[:1] / 1000)
        x = tokens.filled()
        noisy = a**2 * self.covariance + s**2 * torch.eye(2)
        clean = torch.einsum("ij,bjd->bid", a * self.covariance @ torch.linalg.inv(noisy), x)
        eps = (x - a * clean) / s.clamp(min=1e-6)
        return {"flow": eps - clean, "noise": eps, "clean": clean}[self.process.kind]


def sampled(process: LevelProcess, denoiser: Exact, **settings: int) -> Tensor:
    canvas = Tokens.canvas(TOKEN.grid, CLIPS)
    where = torch.tensor([True, False]).expand(CLIPS, 2)
    told = Conditioning(known=Known(torch.full((CLIPS, 2, 1), GIVEN), where))
    draw = Draw(0, "test", 0, tuple(range(CLIPS)))
    return Repaint(TOKEN, process, **settings).sample(denoiser, canvas, told, draw).filled()  # type: ignore[arg-type]


@pytest.fixture(params=["flow", "ddpm"])
def process(request: pytest.FixtureRequest) -> LevelProcess:
    found = Flow().process if request.param == "flow" else Ddpm().process
    assert isinstance(found, LevelProcess)
    return found


def test_what_is_missing_agrees_with_what_is_known(process: LevelProcess):
    """Its mean is near RHO times what is known; without repeats it falls short of that, as the paper says (sec. 4.2)."""
    made = sampled(process, denoiser := Exact(process), steps=40, repeats=8, jump=4)
    assert torch.equal(made[:, 0], torch.full((CLIPS, 1), GIVEN))
    assert all(known is None for known in denoiser.told), "the network is not told what is known"
    once = sampled(process, Exact(process), steps=40, repeats=1, jump=4)
    mean, short = made[:, 1].mean().item(), once[:, 1].mean().item()
    right = RHO * GIVEN
    assert abs(mean - right) < 0.2
    assert short < right - 0.3
    assert abs(mean - right) < 0.5 * abs(short - right)
    assert made[:, 1].std().item() == pytest.approx((1 - RHO**2) ** 0.5, abs=0.1)


def test_the_schedule_goes_back_and_down_again():
    """Ten steps, jumps of three, each gone down twice: appendix B's pseudo-code counted by hand."""
    sampler = Repaint(TOKEN, Flow().process, steps=10, repeats=2, jump=3)  # type: ignore[arg-type]
    path = sampler.visited()
    assert path == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 5, 4, 3, 4, 5, 6, 7, 8, 9, 8, 7, 6, 7, 8, 9, 10]
    denoiser = Exact(Flow().process)  # type: ignore[arg-type]
    sampled(Flow().process, denoiser, steps=10, repeats=2, jump=3)  # type: ignore[arg-type]
    assert denoiser.calls == sampler.calls(Tokens.canvas(TOKEN.grid, 1)) == 19


def test_without_known_tokens_it_is_the_reverse_chain(process: LevelProcess):
    canvas, draw = Tokens.canvas(TOKEN.grid, CLIPS), Draw(0, "test", 0, tuple(range(CLIPS)))
    denoiser = Exact(process)
    made = Repaint(TOKEN, process, steps=20).sample(denoiser, canvas, Conditioning(), draw)  # type: ignore[arg-type]
    assert denoiser.calls == 20
    chain = Ancestral(TOKEN, process, steps=20).sample(denoiser, canvas, Conditioning(), draw)  # type: ignore[arg-type]
    torch.testing.assert_close(made.filled(), chain.filled())
