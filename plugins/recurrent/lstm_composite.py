"""The LSTM composite: one code that remakes what was seen and foretells what comes."""

from __future__ import annotations

from typing import Annotated, NamedTuple, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.facts import Continuous, Regular, TokenFact
from mutoscope.core.process import FrameProcess
from mutoscope.core.settings import Count, Depth, Positive, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.recurrent.frames import check_frames

Memory = tuple[Tensor, Tensor]
"""Output h and cell c of one layer, B width each."""


class Read(NamedTuple):
    """coded: the encoder's layers. future: the predictor's layers, none before it starts. seen: frames that were read."""

    coded: tuple[Memory, ...]
    future: tuple[Memory, ...]
    seen: tuple[Tensor, ...]


@final
class LstmComposite(FrameDenoiser):
    """Encoder, decoder and predictor over whole frames. Srivastava et al. 2015, sec. 2.3, arXiv:1502.04681.

    The encoder reads the frames that open a clip, flattened; its last outputs and cells start two others. The decoder
    remakes those frames in reverse order, the predictor goes on with the frames that follow. Their first step has no
    input; a conditional one is then given the frame before, in the decoder the true one that it remade. Cells have
    peepholes, the output gate's to the new cell.

    reads: frames that the encoder reads. width: units of a layer. layers: of each network. recall_conditional,
    future_conditional: whether decoder and predictor are given the frame before. spread: weights start uniform within
    this, the peepholes within ten times as much (the released settings: .01 at 2048 units).
    """

    name = "lstm_composite"
    paper = "Srivastava et al. 2015, arXiv:1502.04681"
    entries = ("forward", "recalled")
    uses_known = True
    tiny = {"reads": 1, "width": 16, "spread": 0.1}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        process: FrameProcess,
        *,
        reads: Count = 10,
        width: Width = 2048,
        layers: Depth = 1,
        recall_conditional: bool = True,
        future_conditional: bool = True,
        spread: Positive = 0.01,
    ) -> None:
        super().__init__()
        check_frames(self.name, tokens)
        if reads >= tokens.grid.frames:
            raise ValueError(f"reads: a clip has {tokens.grid.frames}, and something must be left to foretell")
        self.reads, self.width, self.layers = reads, width, layers
        self.shape = (tokens.grid.rows * tokens.grid.columns, tokens.width)
        self.out = (self.shape[0], process.output_width(tokens))
        flat = self.shape[0] * self.shape[1]
        self.encoder = Stack(flat, width, layers)
        self.decoder = Stack(flat if recall_conditional else 0, width, layers)
        self.predictor = Stack(flat if future_conditional else 0, width, layers)
        self.remade = nn.Linear(width, self.out[0] * self.out[1])
        self.foretold = nn.Linear(width, self.out[0] * self.out[1])
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                bound = 10 * spread if name.endswith("peep") else spread
                nn.init.uniform_(parameter, -bound, bound)

    def begin(self, canvas: Tokens, conditioning: Conditioning) -> Read:
        nothing = torch.zeros(len(canvas), self.width, device=canvas.device)
        return Read(((nothing, nothing),) * self.layers, (), ())

    def forward(self, frame: Tensor | None, state: Read, t: int, conditioning: Conditioning) -> tuple[Tensor, Read]:
        """What is given for the frames that are read is zero."""
        coded, future, seen = state
        if frame is not None and t <= self.reads:
            coded, seen = self.encoder(bright(frame), coded), (*seen, frame)
        if t < self.reads:
            return coded[-1][0].new_zeros(len(coded[-1][0]), *self.out), Read(coded, future, seen)
        x = None if frame is None or t == self.reads else bright(frame)
        future = self.predictor(x, future or coded)
        return self.foretold(future[-1][0]).view(-1, *self.out), Read(coded, future, seen)

    def recalled(self, state: Read, conditioning: Conditioning) -> dict[int, Tensor]:
        """The frames that were read, from the last to the first."""
        layers, before, remade = state.coded, None, {}
        for i in reversed(range(self.reads)):
            layers = self.decoder(before, layers)
            remade[i] = self.remade(layers[-1][0]).view(-1, *self.out)
            before = bright(state.seen[i])
        return remade


class Stack(nn.Module):
    """LSTM layers, each fed by the one before. inputs: width of what the first is given, 0 for nothing."""

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(PeepholeCell(width if i else inputs, width) for i in range(layers))

    def forward(self, x: Tensor | None, memories: tuple[Memory, ...]) -> tuple[Memory, ...]:
        after = []
        for cell, memory in zip(self.cells, memories, strict=True):
            after.append(cell(x, *memory))
            x = after[-1][0]
        return tuple(after)


class PeepholeCell(nn.Module):
    """i, f = s(W x + U h + w c + b); c' = f c + i tanh(.); o = s(W x + U h + w c' + b); h' = o tanh(c')."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.look = nn.Linear(inputs, 4 * width, bias=False) if inputs else None
        self.back = nn.Linear(width, 4 * width)
        self.peep = nn.Parameter(torch.empty(3, width))

    def forward(self, x: Tensor | None, h: Tensor, c: Tensor) -> Memory:
        """No input adds nothing."""
        sums = self.back(h)
        if x is not None and self.look is not None:
            sums = sums + self.look(x)
        i, f, o, new = sums.chunk(4, dim=-1)
        c_i, c_f, c_o = self.peep.unbind(0)
        i, f = torch.sigmoid(i + c_i * c), torch.sigmoid(f + c_f * c)
        c = f * c + i * torch.tanh(new)
        return torch.sigmoid(o + c_o * c) * torch.tanh(c), c


def bright(frame: Tensor) -> Tensor:
    """B n D values in [-1, 1] as flat brightness in [0, 1]."""
    return 0.5 * (frame.flatten(1) + 1.0)
