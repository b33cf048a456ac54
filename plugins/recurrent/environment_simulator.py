"""The recurrent environment simulator: actions move what is remembered."""

from __future__ import annotations

from typing import Annotated, NamedTuple, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import FrameProcess
from mutoscope.core.settings import Natural, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.recurrent.frames import check_frames, frame_of, picture_of


class Memory(NamedTuple):
    """Output h and cell c, B width each."""

    h: Tensor
    c: Tensor


@final
class EnvironmentSimulator(FrameDenoiser):
    """An LSTM whose own past reaches it only through the action. Chiappa et al. 2017, sec. 3.1, arXiv:1704.02254.

    v = (W^h h) (W^a a), elementwise; gates and cell take v and the code z of the last frame; the frame is decoded from
    the output. The action is the conditioning by frame, that which leads to the frame predicted; without any, v is
    W^h h. Where no frame is given there is no z, and weights of its own take v if they are asked for.

    channels, kernels: of the encoder's convolutions, each halving rows and columns; pads: zeros beside rows and
    columns. The decoder mirrors them. width: of the LSTM. fusion: of v. blind: weights of its own for going on without
    frames (prediction-independent simulation).
    """

    name = "environment_simulator"
    paper = "Chiappa et al. 2017, arXiv:1704.02254"
    uses_known = True
    tiny = {"channels": (8,), "kernels": (4,), "pads": ((1, 1),), "width": 16, "fusion": 24}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: FrameProcess,
        *,
        channels: tuple[Width, ...] = (64, 32, 32, 32),
        kernels: tuple[Width, ...] = (8, 6, 6, 4),
        pads: tuple[tuple[Natural, Natural], ...] = ((0, 1), (1, 1), (1, 1), (0, 0)),
        width: Width = 1024,
        fusion: Width = 2048,
        blind: bool = False,
    ) -> None:
        super().__init__()
        check_frames(self.name, tokens)
        if not len(channels) == len(kernels) == len(pads) >= 1:
            raise ValueError("kernels: channels, kernels and pads are lists of one length")
        if (asked := process.output_width(tokens)) != tokens.width:
            raise ValueError(
                f"gives {tokens.width} numbers per token, as its frames are; the objective asks for {asked}"
            )
        (_, rows, columns), (_, j, k) = tokens.grid, tokens.patch
        self.patch, self.rows, self.width = tokens.patch, rows, width
        sizes, encoder, decoder = [(rows * j, columns * k)], [], []
        widths = [tokens.channels, *channels]
        for i, (kernel, pad) in enumerate(zip(kernels, pads, strict=True)):
            size = tuple((n + 2 * p - kernel) // 2 + 1 for n, p in zip(sizes[-1], pad, strict=True))
            if min(size) < 1:
                raise ValueError(f"kernels: convolution {i + 1} leaves nothing of {sizes[-1]}")
            rest = tuple(n - ((m - 1) * 2 - 2 * p + kernel) for n, m, p in zip(sizes[-1], size, pad, strict=True))
            encoder += [nn.Conv2d(widths[i], widths[i + 1], kernel, 2, pad), nn.RReLU()]
            back = nn.ConvTranspose2d(widths[i + 1], widths[i], kernel, 2, pad, output_padding=rest)  # type: ignore[arg-type]
            decoder = [back, *([nn.RReLU()] if i else []), *decoder]
            sizes.append(size)
        self.coded = (widths[-1], *sizes[-1])
        flat = widths[-1] * sizes[-1][0] * sizes[-1][1]
        self.encoder = nn.Sequential(*encoder)
        self.by_output = nn.Linear(width, fusion, bias=False)
        self.by_action = nn.Linear(given.per_frame, fusion, bias=False) if given.per_frame else None
        self.fused = nn.Linear(fusion, 4 * width)
        self.seen = nn.Linear(flat, 4 * width, bias=False)
        self.alone = nn.Linear(fusion, 4 * width) if blind else None
        self.start = nn.Linear(width, flat)
        self.decoder = nn.Sequential(nn.RReLU(), *decoder)

    def begin(self, canvas: Tokens, conditioning: Conditioning) -> Memory:
        nothing = torch.zeros(len(canvas), self.width, device=canvas.device)
        return Memory(nothing, nothing)

    def fusion(self, h: Tensor, t: int, conditioning: Conditioning) -> Tensor:
        """v, B fusion."""
        v = self.by_output(h)
        if self.by_action is None or conditioning.per_frame is None:
            return v
        actions = conditioning.per_frame
        return v * self.by_action(actions[:, min(t, actions.shape[1] - 1)].to(v.dtype))

    def forward(self, frame: Tensor | None, state: Memory, t: int, conditioning: Conditioning) -> tuple[Tensor, Memory]:
        v = self.fusion(state.h, t, conditioning)
        if frame is not None:
            sums = self.fused(v) + self.seen(self.encoder(picture_of(frame, self.rows, self.patch)).flatten(1))
        else:
            sums = self.fused(v) if self.alone is None or t == 0 else self.alone(v)
        i, f, o, new = sums.chunk(4, dim=-1)
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        picture = self.decoder(self.start(h).view(-1, *self.coded))
        return frame_of(picture, self.patch), Memory(h, c)
