"""The tower `clip`: a contrastive model of open_clip, that sees clips and reads captions in one space."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, final

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mutoscope.core.errors import InputError, WorkError
from mutoscope.core.layers.bpe import distinct
from mutoscope.core.layers.published import open_clip_configuration
from mutoscope.core.layers.vocabulary import Vocabulary
from mutoscope.core.tower import JointTower
from mutoscope.core.values import Batch, Conditioning, Features

SMALL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "text_cfg": {"context_length": 24, "vocab_size": 576, "width": 64, "heads": 2, "layers": 1},
}
"""The model of the embedded world, in open_clip's format: a small ResNet that sees four frames side by side."""
NAME, TILES = "mutoclip", 2
SHIPPED = Path(__file__).with_name("mutoclip.safetensors")
"""Float16 weights; the JSON beside them has their SHA-256 and says how they were made."""
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the colours in [0, 1], as CLIP was trained with."""
SHARPEST = math.log(100.0)
"""Most that the logarithm of the sharpness may be (Radford et al. 2021, sec. 2.5)."""


@final
class ClipTower(JointTower):
    """A network for images and one for text, taught to agree. Radford et al. 2021, sec. 2, arXiv:2103.00020.

    Built by open_clip's own code. Its image network sees a clip as one picture of `tiles` x `tiles` frames, evenly
    spaced, in rows (Fan et al. 2021, arXiv:2106.14104), so that motion can be seen; a single frame stands in every
    place. With one tile it sees every frame alone, and a clip is the mean, as CLIP's similarity of videos has it.

    The weights that come with the package tell colours, shapes, and what moves from what stays; the short recipe that
    made them leaves the direction and the speed of a motion untold.

    model: `mutoclip`, a name of open_clip's, or a .json file with a configuration in its format. tiles: frames along a
    side. shipped: start from the weights that come with the package, which `recipes/clip.yaml` makes anew. at_once:
    pictures that go through it together.
    """

    name = "clip"
    mixes_batch = True
    paper = "Radford et al. 2021, arXiv:2103.00020"

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        *,
        model: str = NAME,
        tiles: Annotated[int, Ge(1), Le(8)] = TILES,
        shipped: bool = True,
        at_once: Annotated[int, Ge(1)] = 256,
    ) -> None:
        super().__init__()
        if shipped and (model != NAME or tiles != TILES):
            raise InputError(field="shipped", problem=f"only {NAME} of {TILES} tiles comes with the package", got=model)
        said = SMALL if model == NAME else _configuration(model)
        self.model, self.tiles, self.at_once = model, tiles, at_once
        text = said["text_cfg"]
        self.vocabulary = int(text.get("vocab_size", 49408))
        self.text = (int(text.get("width", 512)), int(text.get("context_length", 77)))
        self.width = int(said["embed_dim"])
        self.words = Vocabulary(self.vocabulary)
        self.net = _built(said)
        sides = said["vision_cfg"].get("image_size", 224)
        self.size: tuple[int, int] = (sides, sides) if isinstance(sides, int) else (sides[0], sides[1])
        if self.size[0] % tiles or self.size[1] % tiles:
            raise ValueError(f"tiles: {tiles} do not divide a picture of {self.size[0]} x {self.size[1]}")
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        if shipped:
            self._load()

    def forward(self, pictures: Tensor) -> Tensor:
        """Unit vectors N width of pictures N 3 H W in [-1, 1], of the model's size."""
        images = ((pictures + 1) / 2 - self.mean) / self.deviation
        return F.normalize(self.net.encode_image(images).float(), dim=-1)

    def features(self, video: Tensor, level: Tensor | None = None) -> Features:
        clips, pictures = len(video), self.pictured(video)
        rows = torch.cat([self(part) for part in pictures.split(self.at_once)])
        sequence = rearrange(rows, "(b t) d -> b t d", b=clips)
        pooled = sequence[:, 0] if sequence.shape[1] == 1 else F.normalize(sequence.mean(1), dim=-1)
        return Features(sequence=sequence, pooled=pooled)

    def pictured(self, video: Tensor) -> Tensor:
        """The pictures that clips B C T H W are seen as: one for each clip, or one for each frame with one tile."""
        frames, places = video.shape[2], self.tiles**2
        h, w = self.size[0] // self.tiles, self.size[1] // self.tiles
        if places > 1:
            chosen = [i * (frames - 1) // max(1, places - 1) if frames > 1 else 0 for i in range(places)]
            video = video[:, :, chosen]
        flat = rearrange(video.clamp(-1, 1), "b c t h w -> (b t) c h w")
        if tuple(flat.shape[-2:]) != (h, w):
            flat = F.interpolate(flat, (h, w), mode="bilinear", antialias=True, align_corners=False)
        if places == 1:
            return flat
        return rearrange(flat, "(b i j) c h w -> b c (i h) (j w)", i=self.tiles, j=self.tiles)

    def read(self, prompts: Sequence[str]) -> Conditioning:
        """Pooled, of unit length, and the states of the last layer, as Ramesh et al. 2022 give them to their prior. A
        prompt that repeats is read once."""
        net, device = self.net, self.net.positional_embedding.device
        places = distinct(prompts)
        ids, mask = self.words.rows(list(places), self.text[1], device)
        x = net.token_embedding(ids) + net.positional_embedding
        x = net.ln_final(net.transformer(x, attn_mask=net.attn_mask))
        last = mask.sum(dim=1) - 1
        pooled = x[torch.arange(len(x), device=device), last] @ net.text_projection
        own = torch.tensor([places[prompt] for prompt in prompts], device=device)
        return Conditioning(*(row[own] for row in (F.normalize(pooled.float(), dim=-1), x, mask, ids)))

    def sharpness(self) -> Tensor:
        return self.net.logit_scale.clamp(max=SHARPEST).exp()

    def train(self, mode: bool = True) -> ClipTower:
        """A frozen tower stays in evaluation mode, so that its batch statistics stay what they are."""
        return super().train(mode and not getattr(self, "frozen", False))

    def begin(self, batches: Iterable[Batch]) -> None:
        """Takes in the pieces that the training captions use."""
        self.words.learn(text for batch in batches for text in batch.prompt or ())

    def _load(self) -> None:
        """The shipped weights. Raises WorkError where the file is not the one whose hash was written down."""
        if self.net.positional_embedding.is_meta:
            return
        card = json.loads(SHIPPED.with_suffix(".json").read_text(encoding="utf-8"))
        found = hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
        if found != card["sha256"]:
            raise WorkError(f"{SHIPPED.name} is damaged: its SHA-256 is {found[:12]}, not {card['sha256'][:12]}")
        stored = load_file(SHIPPED)
        self.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in stored.items()})


def _configuration(model: str) -> dict[str, Any]:
    """The configuration of a model of open_clip's own transformers. Raises InputError."""
    found = open_clip_configuration(model, ("embed_dim", "vision_cfg", "text_cfg"), known=[NAME])
    if "hf_model_name" in found["text_cfg"]:
        problem = "is no model of open_clip's own image and text transformers"
        raise InputError(field="model", problem=problem, got=model)
    return found


def _built(said: dict[str, Any]) -> nn.Module:
    """open_clip's CLIP. Raises InputError on a configuration that it cannot build."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = {**said["vision_cfg"], "timm_model_pretrained": False}
    try:
        return CLIP(
            said["embed_dim"], CLIPVisionCfg(**vision), CLIPTextCfg(**said["text_cfg"]), bool(said.get("quick_gelu"))
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(field="model", problem=f"open_clip cannot build it ({error})") from error


def ship(tower: ClipTower, made: str, file: Path = SHIPPED) -> None:
    """Writes a trained tower's weights as the shipped ones: float16, and the card with their hash. made: how."""
    weights = {
        name: (t.to(torch.float16) if t.is_floating_point() else t).detach().cpu().contiguous()
        for name, t in tower.state_dict().items()
    }
    save_file(weights, file)
    card = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "parameters": sum(p.numel() for p in tower.parameters()),
        "made": made,
    }
    file.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
