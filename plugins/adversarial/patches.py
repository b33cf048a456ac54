"""The discriminators of MoCoGAN: patches of single frames, and patches of a video."""

from __future__ import annotations

from typing import final

from einops import rearrange
from torch import Tensor, nn

from mutoscope.core.discriminator import Discriminator
from mutoscope.core.facts import ClipFact, ConditioningFact, FieldFact
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, Depth, Width
from mutoscope.core.values import Conditioning
from mutoscope.plugins.adversarial.conv3d import initialise
from mutoscope.plugins.adversarial.projection import Projection


@final
class PatchFrames(Discriminator):
    """Single frames, drawn at random from a clip, patch by patch: the image discriminator of MoCoGAN.

    Tulyakov et al. 2018, sec. 3.2, arXiv:1707.04993; the released code's layers: convolutions of 4 x 4 at stride 2
    without bias, widths doubling, batch normalisation after all but the first and the last, LeakyReLU .2.

    width: of the first convolution. depth: convolutions before the last. frames: drawn from each clip.
    """

    name = "patch_frames"
    paper = "Tulyakov et al. 2018, arXiv:1707.04993"
    tiny = {"width": 8, "depth": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self, field: FieldFact, given: ConditioningFact, *, width: Width = 64, depth: Depth = 3, frames: Count = 1
    ) -> None:
        super().__init__()
        check_depth(field.size, depth + 1)
        self.frames = min(frames, field.frames)
        layers: list[nn.Module] = []
        channels = field.channels
        for i in range(depth):
            out = width * 2**i
            layers.append(nn.Conv2d(channels, out, 4, 2, 1, bias=False))
            if i:
                layers.append(nn.BatchNorm2d(out))
            layers.append(nn.LeakyReLU(0.2))
            channels = out
        self.features = nn.Sequential(*layers)
        self.out = nn.Conv2d(channels, 1, 4, 2, 1, bias=False)
        self.match = Projection(given, channels)
        initialise(self, 0.02)

    def view(self, grid: Tensor, draw: Draw) -> Tensor:
        return some_frames(grid, self.frames, draw)

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B x patches of all frames."""
        b = len(grid)
        features = self.features(rearrange(grid, "b c t h w -> (b t) c h w"))
        scores = rearrange(self.out(features), "(b t) one h w -> b one (t h w)", b=b)
        return self.match(scores, rearrange(features, "(b t) c h w -> b c (t h w)", b=b), conditioning).flatten(1)


@final
class PatchVideo(Discriminator):
    """A video as patches of space and time, and its class: the video discriminator of MoCoGAN.

    Tulyakov et al. 2018, sec. 3.2; the released code's layers: convolutions of 4 x 4 x 4 without bias that halve space
    and take three frames away, batch normalisation after all but the first and the last, LeakyReLU .2, and a last one
    without stride. Where fewer frames are left a kernel sees those.

    width: of the first convolution. depth: convolutions before the last. classes: also name the data's class.
    """

    name = "patch_video"
    paper = "Tulyakov et al. 2018, arXiv:1707.04993"
    tiny = {"width": 8, "depth": 2}  # noqa: RUF012
    mixes_batch = True

    def __init__(
        self,
        field: FieldFact,
        given: ConditioningFact,
        clip: ClipFact,
        *,
        width: Width = 64,
        depth: Depth = 4,
        classes: bool = False,
    ) -> None:
        super().__init__()
        if classes and not clip.classes:
            raise ValueError("classes: the data has no class labels")
        check_depth(field.size, depth)
        self.categories = clip.classes if classes else 0
        layers: list[nn.Module] = []
        channels, frames = field.channels, field.frames
        for i in range(depth):
            out, reach = width * 2**i, min(4, frames)
            layers.append(nn.Conv3d(channels, out, (reach, 4, 4), (1, 2, 2), (0, 1, 1), bias=False))
            if i:
                layers.append(nn.BatchNorm3d(out))
            layers.append(nn.LeakyReLU(0.2))
            channels, frames = out, frames - reach + 1
        self.features = nn.Sequential(*layers)
        rows, columns = (min(4, n // 2**depth) for n in field.size)
        self.out = nn.Conv3d(channels, 1 + self.categories, (min(4, frames), rows, columns), bias=False)
        self.match = Projection(given, channels)
        initialise(self, 0.02)

    def forward(self, grid: Tensor, conditioning: Conditioning) -> Tensor:
        """B C T H W to B x 1 and categories x places."""
        features = self.features(grid)
        return self.match(self.out(features), features, conditioning)


def some_frames(grid: Tensor, count: int, draw: Draw) -> Tensor:
    """So many frames of each clip, B C count H W, drawn without repetition, in order."""
    chosen = draw.uniform("frames", grid.shape[2]).topk(count, dim=1).indices.sort(dim=1).values
    return grid.gather(2, chosen.view(len(grid), 1, count, 1, 1).expand(-1, grid.shape[1], -1, *grid.shape[3:]))


def check_depth(size: tuple[int, int], halvings: int) -> None:
    """Raises ValueError where space cannot be halved so often."""
    if min(size) < 2**halvings:
        raise ValueError(f"depth: {size[0]} x {size[1]} cells cannot be halved {halvings} times")
