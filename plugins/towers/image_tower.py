"""The tower `image_tower`: any image model of timm or open_clip, frame by frame."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal, final

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mutoscope.core.errors import InputError, nearest
from mutoscope.core.layers.published import load_published, open_clip_configuration
from mutoscope.core.settings import Count, Natural
from mutoscope.core.tower import Tower
from mutoscope.core.values import Features

Source = Literal["timm", "open_clip"]
PREFIXES = ("", "visual.", "trunk.", "visual.trunk.")
"""What may stand before the model's own names in a file."""


@final
class ImageTower(Tower):
    """Features of every frame by a published image model, from local weights; no download.

    Frames are resized to what the model was made for, bicubic with antialiasing, aspect not kept, and normalised as its
    configuration says. sequence: one row per frame, B T D; pooled: their mean, which does not see the order of frames,
    so that a model of images judges content and not motion.

    source: the library. model: its name there; for open_clip also a .json file in its format, and the image tower is
    taken. file: weights, a .safetensors file of the image model or of the whole one; empty where weights come from
    elsewhere. size: pixels to resize to; 0 is the model's own. at_once: frames that go through it together.
    """

    name = "image_tower"
    tiny: ClassVar[dict[str, Any]] = {"model": "test_vit", "size": 0}

    def __init__(
        self,
        *,
        source: Source = "timm",
        model: str = "vit_small_patch16_224",
        file: str = "",
        size: Natural = 0,
        at_once: Count = 256,
    ) -> None:
        super().__init__()
        self.source, self.model, self.at_once = source, model, at_once
        build = _timm if source == "timm" else _open_clip
        self.tower, self.size, mean, deviation = build(model, size)
        if file:
            load_published(self.tower, file, PREFIXES)
        self.mean, self.deviation = mean, deviation

    def forward(self, frames: Tensor) -> Tensor:
        """Features N D of images N 3 H W in [-1, 1]."""
        return self.tower(self.prepared(frames))

    def prepared(self, frames: Tensor) -> Tensor:
        """Resized and normalised as the model wants them."""
        images = (frames.clamp(-1, 1) + 1) / 2
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, deviation = (images.new_tensor(x).view(3, 1, 1) for x in (self.mean, self.deviation))
        return (images - mean) / deviation

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        clips = len(video)
        frames = rearrange(video, "b c t h w -> (b t) c h w")
        rows = torch.cat([self(part) for part in frames.split(self.at_once)])
        sequence = rearrange(rows, "(b t) d -> b t d", b=clips)
        return Features(sequence=sequence, pooled=sequence.mean(1))

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return f"{self.source}/{self.model}:{digest.hexdigest()[:12]}:bicubic {self.size[0]}x{self.size[1]}"


Built = tuple[nn.Module, tuple[int, int], tuple[float, ...], tuple[float, ...]]


def _timm(model: str, size: int) -> Built:
    """A model of timm without its classifier, its input size, mean and deviation."""
    import timm

    if not timm.is_model(model):
        hint = nearest(model, timm.list_models()) or f"; timm knows {len(timm.list_models())} models"
        raise InputError(field="model", problem=f"unknown timm model{hint}", got=model)
    more = {}
    tower = timm.create_model(model, pretrained=False, num_classes=0)
    own = tower.pretrained_cfg  # type: ignore[union-attr]
    wanted = (size, size) if size else tuple(own["input_size"][-2:])
    if own.get("fixed_input_size") and wanted != tuple(own["input_size"][-2:]):
        more = {"img_size": wanted}
        tower = timm.create_model(model, pretrained=False, num_classes=0, **more)
    return tower, wanted, tuple(own["mean"]), tuple(own["std"])


def _open_clip(model: str, size: int) -> Built:
    """The image tower of a model of open_clip."""
    import open_clip
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    found = open_clip_configuration(model, ("embed_dim", "vision_cfg"))
    settings = {**found["vision_cfg"], "timm_model_pretrained": False}
    if size:
        settings["image_size"] = size
    try:
        tower = _build_vision_tower(found["embed_dim"], CLIPVisionCfg(**settings), bool(found.get("quick_gelu", False)))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(field="model", problem=f"open_clip cannot build its image tower ({error})") from error
    sides = settings.get("image_size", 224)
    wanted = (sides, sides) if isinstance(sides, int) else tuple(sides)
    return tower, wanted, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
