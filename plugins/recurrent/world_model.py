"""The memory of a world model: a recurrent network that says what the next latent frame may be."""

from __future__ import annotations

from typing import Annotated, NamedTuple, final

import torch
from torch import Tensor, nn

from mutoscope.core.denoiser import FrameDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import FrameProcess
from mutoscope.core.settings import Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.recurrent.frames import check_frames


class Memory(NamedTuple):
    """Output h and cell c, B width each."""

    h: Tensor
    c: Tensor


@final
class WorldModel(FrameDenoiser):
    """An LSTM over latents and actions, and a linear layer to the next latents' density: the MDN-RNN.

    Ha & Schmidhuber 2018, sec. 2.2 and app. A.2, arXiv:1803.10122. The action is the conditioning by frame, that which
    leads to the frame predicted. The forget gate is opened by one more. Where a caption or a class is told, its pooled
    vector stands beside every frame.

    width: of the LSTM. restart: it is also told, by a number, that a clip begins (the paper's Doom).
    """

    name = "world_model"
    paper = "Ha & Schmidhuber 2018, arXiv:1803.10122"
    uses_known = True
    tiny = {"width": 16}  # noqa: RUF012

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: FrameProcess,
        *,
        width: Width = 256,
        restart: bool = False,
    ) -> None:
        super().__init__()
        check_frames(self.name, tokens)
        self.width, self.restart, self.actions, self.told = width, restart, given.per_frame, given.pooled
        self.shape = (tokens.grid.rows * tokens.grid.columns, tokens.width)
        self.out = (self.shape[0], process.output_width(tokens))
        inputs = self.shape[0] * self.shape[1] + given.per_frame + given.pooled + int(restart)
        self.step = nn.Linear(inputs + width, 4 * width)
        self.say = nn.Linear(width, self.out[0] * self.out[1])

    def begin(self, canvas: Tokens, conditioning: Conditioning) -> Memory:
        nothing = torch.zeros(len(canvas), self.width, device=canvas.device)
        return Memory(nothing, nothing)

    def forward(self, frame: Tensor | None, state: Memory, t: int, conditioning: Conditioning) -> tuple[Tensor, Memory]:
        h, c = state
        z = h.new_zeros(len(h), self.shape[0] * self.shape[1]) if frame is None else frame.flatten(1).to(h.dtype)
        given = [z]
        if self.actions:
            said = conditioning.per_frame
            given.append(h.new_zeros(len(h), self.actions) if said is None else said[:, min(t, said.shape[1] - 1)])
        if self.told:
            pooled = conditioning.pooled
            given.append(h.new_zeros(len(h), self.told) if pooled is None else pooled.to(h.dtype))
        if self.restart:
            given.append(h.new_full((len(h), 1), float(t == 0)))
        i, f, o, new = self.step(torch.cat([*given, h], dim=1)).chunk(4, dim=-1)
        c = torch.sigmoid(f + 1.0) * c + torch.sigmoid(i) * torch.tanh(new)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self.say(h).view(-1, *self.out), Memory(h, c)
