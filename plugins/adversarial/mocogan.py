"""MoCoGAN: a generator of frames whose content stays and whose motion is a walk."""

from __future__ import annotations

from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.denoiser import OneStepDenoiser
from mutoscope.core.facts import ConditioningFact, Continuous, Regular, TokenFact
from mutoscope.core.process import OneStepProcess
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Depth, Natural, Width
from mutoscope.core.values import Conditioning, Tokens
from mutoscope.plugins.adversarial.conv3d import initialise
from mutoscope.plugins.adversarial.grids import cells_of, check_cells, field_of, tokens_of
from mutoscope.plugins.adversarial.vgan import start_of


@final
class Mocogan(OneStepDenoiser):
    """Motion and content decomposed: one content code for a clip, a motion code for each frame.

    Tulyakov et al. 2018, sec. 3.1, arXiv:1707.04993. The content code is drawn once. Motion codes are the states of a
    GRU whose first state is drawn and whose every step takes fresh noise. Each frame is made by itself from both, by
    transposed convolutions over space. A clip of any number of frames can be asked for. Pooled conditioning is joined
    to the content. Latents are in [-1, 1], as tanh gives them.

    content, motion: numbers of the codes. categories: classes that a clip's category is drawn from, 0 for none; noise
    `category`. category_to: the category enters each frame, as in the released code (`content`), or the GRU, as in the
    paper's best scheme (`motion`). width: channels before the last doubling. doublings: of the size of frames.
    """

    name = "mocogan"
    paper = "Tulyakov et al. 2018, arXiv:1707.04993"
    tiny = {"content": 8, "motion": 4, "categories": 4, "width": 8, "doublings": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        tokens: Annotated[TokenFact, Continuous, Regular],
        given: ConditioningFact,
        process: OneStepProcess,
        *,
        content: Width = 50,
        motion: Width = 10,
        categories: Natural = 0,
        category_to: Literal["content", "motion"] = "content",
        width: Width = 64,
        doublings: Depth = 4,
    ) -> None:
        super().__init__()
        self.patch, self.field = tokens.patch, field_of(tokens)
        self.content, self.motion, self.categories, self.category_to = content, motion, categories, category_to
        to_frame, to_walk = (categories, 0) if category_to == "content" else (0, categories)
        self.walk = nn.GRUCell(motion + to_walk, motion)
        widths = [width * 2**i for i in reversed(range(doublings))]
        start = tuple(start_of(n, doublings) for n in self.field.size)
        code = content + given.pooled + to_frame + motion
        layers: list[nn.Module] = [nn.ConvTranspose2d(code, widths[0], start, bias=False)]  # type: ignore[arg-type]
        for a, b in zip(widths, [*widths[1:], self.field.channels], strict=True):
            layers += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        self.frame = nn.Sequential(*layers)
        initialise(self.frame, 0.02)

    def noise(self, canvas: Tokens, draw: Draw) -> dict[str, Tensor]:
        frames = cells_of(canvas, self.patch).frames
        noise = {
            "content": draw.normal("content", self.content),
            "start": draw.normal("start", self.motion),
            "motion": draw.normal("motion", frames, self.motion),
        }
        if self.categories:
            noise["category"] = (draw.uniform("category") * self.categories).long()
        return noise

    def codes(self, noise: dict[str, Tensor]) -> Tensor:
        """The walk of the motion codes, B T motion."""
        h, steps = noise["start"], noise["motion"]
        category = self._category(noise, "motion")
        walked = []
        for eps in steps.unbind(1):
            h = self.walk(eps if category is None else torch.cat([eps, category], 1), h)
            walked.append(h)
        return torch.stack(walked, dim=1)

    def forward(self, noise: dict[str, Tensor], canvas: Tokens, conditioning: Conditioning) -> Tensor:
        cells = cells_of(canvas, self.patch)
        check_cells(self.name, cells._replace(rows=self.field.size[0], columns=self.field.size[1]), cells)
        motion = self.codes(noise)
        stays = [noise["content"], conditioning.pooled, self._category(noise, "content")]
        still = torch.cat([x for x in stays if x is not None], dim=1)
        code = torch.cat([still[:, None].expand(-1, motion.shape[1], -1), motion], dim=2)
        made = self.frame(rearrange(code, "b t c -> (b t) c 1 1")).tanh()
        h, w = self.field.size
        return tokens_of(rearrange(made[..., :h, :w], "(b t) c h w -> b c t h w", b=len(code)), self.patch)

    def _category(self, noise: dict[str, Tensor], enters: str) -> Tensor | None:
        if not self.categories or enters != self.category_to:
            return None
        return F.one_hot(noise["category"], self.categories).to(noise["content"].dtype)
