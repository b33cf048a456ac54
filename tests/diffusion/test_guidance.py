"""Classifier-free guidance as a wrapped prediction."""

from __future__ import annotations

import pytest
import torch

from mutoscope.core.errors import InputError
from mutoscope.core.guidance import Guided, calls_at, scale_at
from mutoscope.core.values import Conditioning, Known
from mutoscope.plugins.diffusion.ddpm import Ddpm
from mutoscope.plugins.diffusion.euler import Euler
from mutoscope.plugins.diffusion.flow import FlowProcess


def told(clips: int = 5) -> Conditioning:
    return Conditioning(torch.full((clips, 1), 0.8), null=Conditioning(torch.full((clips, 1), 0.2)))


@pytest.fixture
def noisy(canvas, draw):
    return canvas.with_values(draw.normal("x", 12, 4))


@pytest.mark.parametrize(
    "process", [FlowProcess(), FlowProcess("clean"), Ddpm().process, Ddpm(predict="velocity").process]
)
def test_the_field_is_extrapolated_from_the_null_one(process, noisy, exact, by_time) -> None:
    timed = by_time(process)
    network, conditioning = exact(timed), told()
    assert conditioning.null is not None
    fields = {w: Guided(timed, network, conditioning, w).predict(noisy, 0.6).field for w in (0.0, 1.0, 3.0)}
    plain = Guided(timed, network, conditioning).predict(noisy, 0.6).field
    null = Guided(timed, network, conditioning.null).predict(noisy, 0.6).field
    assert torch.equal(fields[1.0], plain)
    assert torch.equal(fields[0.0], null)
    torch.testing.assert_close(fields[3.0], null + 3 * (plain - null))


def test_every_kind_gives_the_same_guided_clean_data(noisy, exact, by_time) -> None:
    made = []
    for kind in ("flow", "clean", "noise"):
        timed = by_time(FlowProcess(kind))
        made.append(Guided(timed, exact(timed), told(), 4.0).predict(noisy, 0.5).as_clean())
    torch.testing.assert_close(made[0], made[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made[0], made[2], atol=1e-5, rtol=1e-4)


def test_one_call_where_one_will_do(noisy, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    for scale, time, calls in ((1.0, 0.5, 1), (0.0, 0.5, 1), (2.0, 0.5, 2), (2.0, 0.9, 1), (2.0, 0.1, 1)):
        network = exact(timed)
        Guided(timed, network, told(), scale, (0.2, 0.8)).predict(noisy, time)
        assert network.calls == calls == calls_at(time, scale, (0.2, 0.8))
    assert scale_at(0.8, 2.0, (0.2, 0.8)) == 2.0


def test_outside_its_interval_guidance_changes_nothing(noisy, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    plain = Guided(timed, exact(timed), told()).predict(noisy, 0.9).field
    assert torch.equal(Guided(timed, exact(timed), told(), 5.0, (0.2, 0.8)).predict(noisy, 0.9).field, plain)


def test_without_a_null_guidance_is_refused(token, canvas, draw, exact, by_time) -> None:
    timed = by_time(FlowProcess())
    with pytest.raises(InputError, match=r"guidance: needs a conditioner .*dropout.*got 3\.0"):
        Euler(token, timed, steps=2, guidance=3.0).sample(exact(timed), canvas, Conditioning(), draw)
    Euler(token, timed, steps=2, guidance=1.0).sample(exact(timed), canvas, Conditioning(), draw)


def test_what_has_no_null_is_told_both_times(noisy, by_time) -> None:
    """Known tokens, and fields that the null conditioning lacks, stay."""
    known = Known(torch.zeros(5, 12, 4), torch.zeros(5, 12, dtype=torch.bool))
    frames = torch.ones(5, 2, 3)
    conditioning = Conditioning(torch.ones(5, 1), per_frame=frames, known=known, null=Conditioning(torch.zeros(5, 1)))
    seen = []

    class Spy(FlowProcess.__mro__[1]):  # type: ignore[misc]
        kind = "flow"

        def coefficients(self, level):
            return 1 - level, level

    def network(tokens, level, conditioning):
        seen.append(conditioning)
        return tokens.filled()

    Guided(Spy(), network, conditioning, 2.0).predict(noisy, 0.5)  # type: ignore[arg-type]
    assert [c.pooled.unique().item() for c in seen] == [1, 0]
    assert all(c.known is known and c.per_frame is frames for c in seen)
