"""The `clip` conditioner: the frozen text tower of any open_clip model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, final

import torch
from torch import Tensor, nn

from mutoscope.core.conditioner import Conditioner
from mutoscope.core.errors import InputError
from mutoscope.core.facts import Captioned, ClipFact, ConditioningFact
from mutoscope.core.layers.bpe import VOCABULARY, cut, distinct, ids_of
from mutoscope.core.layers.published import load_published, open_clip_configuration
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Natural, Share
from mutoscope.core.values import Batch, Conditioning

REMEMBERED = 4096
"""Prompts whose features are kept."""


@final
class Clip(Conditioner):
    """Frozen text features of a contrastive model, from local weights; no download.

    Radford et al. 2021, sec. 2.4; the sequence is what Rombach et al. 2022 attend to. Gives a sequence, a pooled vector
    in the space shared with images, and the ids. Every prompt is embedded alone, once, and remembered, so that its
    features do not depend on batch mates to the last bit. A batch without prompts gets the empty one.

    model: a name of open_clip's, or a .json file with a model's configuration in open_clip's format. file: its weights,
    a .safetensors file of the whole model or of its text tower; empty where weights come from elsewhere. drop: last
    blocks left out; Stable Diffusion 2 leaves out one. tokenizer: a local folder of a Hugging Face tokenizer, for
    models that do not have CLIP's vocabulary. dropout: share of training clips that are told nothing, so that guidance
    is possible; 0 rules guidance out.
    """

    name = "clip"
    paper = "Radford et al. 2021, arXiv:2103.00020"
    tiny: ClassVar[dict[str, Any]] = {"drop": 11}

    def __init__(
        self,
        clip: Annotated[ClipFact, Captioned],
        *,
        model: str = "ViT-B-32",
        file: str = "",
        drop: Natural = 0,
        tokenizer: str = "",
        dropout: Share = 0.1,
    ) -> None:
        super().__init__()
        configuration = open_clip_configuration(model, ("embed_dim", "text_cfg"))
        text = dict(configuration["text_cfg"])
        self.dropout = dropout
        self.length, self.vocabulary = text.get("context_length", 77), text.get("vocab_size", VOCABULARY)
        self.padding = text.get("pad_id", 0)
        self.tower = _tower(configuration, text, drop)
        self.tokenizer = _foreign_tokenizer(model, text, tokenizer, self.length)
        if file:
            load_published(self.tower, file, ("", "text.", "tower."))
        self.pooled, self.width = _widths(configuration, text, self.length)
        self.requires_grad_(False)
        self.eval()
        self._remembered: dict[str, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self.register_load_state_dict_post_hook(lambda *_: self._remembered.clear())

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled U D' and sequence U L D of prompts given by their padded ids, U L."""
        return self.tower(ids)

    @torch.no_grad()
    def embed(self, batch: Batch, draw: Draw) -> Conditioning:
        prompts = batch.prompt if batch.prompt is not None else ("",) * len(batch)
        places = distinct((*prompts, ""))
        rows = [self._features(prompt) for prompt in places]
        own = torch.tensor([places[prompt] for prompt in prompts], device=rows[0][0].device)
        everything = [torch.stack(column) for column in zip(*rows, strict=True)]
        pooled, sequence, mask, ids = (x.index_select(0, own) for x in everything)
        null = None
        if self.dropout > 0:
            null = Conditioning(*(x[places[""]].expand(len(prompts), *x.shape[1:]) for x in everything))
        return Conditioning(pooled, sequence, mask, ids, null=null)

    def facts(self) -> tuple[ConditioningFact, ...]:
        return (
            ConditioningFact(pooled=self.pooled, sequence=self.width, length=self.length, vocabulary=self.vocabulary),
        )

    def fingerprint(self) -> str:
        """Names the tower by a hash of its weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tower.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return f"clip:{digest.hexdigest()[:12]}"

    def train(self, mode: bool = True) -> Clip:
        """Stays in evaluation mode: the tower is frozen."""
        super().train(False)
        return self

    def _features(self, prompt: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pooled, sequence, mask and ids of one prompt, without a batch axis."""
        device = next(self.tower.parameters()).device
        kept = self._remembered.pop(prompt, None)
        if kept is None or kept[0].device != device:
            ids = torch.tensor([self._ids(prompt)], device=device)
            with torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False):
                pooled, sequence = self(ids)
            kept = (pooled[0], sequence[0], self._mask(prompt, ids[0]), ids[0])
        if device.type == "meta":
            return kept
        # The prompt that was not asked for longest is forgotten first.
        self._remembered[prompt] = kept
        if len(self._remembered) > REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)))
        return kept

    def _ids(self, prompt: str) -> list[int]:
        """The prompt's ids, padded to the tower's length."""
        if self.tokenizer is not None:
            return self.tokenizer([prompt])[0].tolist()
        ids = cut(ids_of(prompt), self.length)
        return ids + [self.padding] * (self.length - len(ids))

    def _mask(self, prompt: str, ids: Tensor) -> Tensor:
        """True for the prompt's own tokens; at least the first one's."""
        if self.tokenizer is not None:
            mask = ids != self.padding
            return mask | (torch.arange(len(ids), device=ids.device) == 0)
        return torch.arange(len(ids), device=ids.device) < len(ids_of(prompt))


def _tower(configuration: dict[str, Any], text: dict[str, Any], drop: int) -> nn.Module:
    """The text tower without its last `drop` blocks, giving pooled and sequence."""
    from open_clip.model import CLIPTextCfg, _build_text_tower

    name = text.get("hf_model_name")
    if name and not Path(name).is_dir():
        raise InputError(
            field="model",
            problem="has a Hugging Face text tower, which needs a local folder: copy its configuration to a .json file "
            "and name the folder as hf_model_name",
            got=name,
        )
    # Written in a configuration, weights of the text tower's own would be looked for online.
    text |= {"output_tokens": True, "hf_model_pretrained": False}
    try:
        built = CLIPTextCfg(**text)
        tower = _build_text_tower(configuration["embed_dim"], built, bool(configuration.get("quick_gelu", False)))
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise InputError(field="model", problem=f"open_clip cannot build its text tower ({error})") from error
    if drop:
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None)
        if not isinstance(blocks, nn.ModuleList) or drop >= len(blocks):
            most = len(blocks) - 1 if isinstance(blocks, nn.ModuleList) else 0
            raise InputError(field="drop", problem="more blocks than can be left out", got=drop, allowed=f"0 to {most}")
        del blocks[len(blocks) - drop :]
    return tower


def _widths(configuration: dict[str, Any], text: dict[str, Any], length: int) -> tuple[int, int]:
    """Widths of pooled and sequence, found by asking a tower on the meta device."""
    with torch.no_grad(), torch.device("meta"):
        pooled, sequence = _tower(configuration, text, 0)(torch.zeros(1, length, dtype=torch.long))
    return pooled.shape[-1], sequence.shape[-1]


def _foreign_tokenizer(model: str, text: dict[str, Any], folder: str, length: int) -> Any:
    """A Hugging Face tokenizer from a local folder, or None where CLIP's own vocabulary is meant."""
    wanted = text.get("hf_tokenizer_name")
    if not wanted and not folder:
        return None
    if not Path(folder or wanted).is_dir():
        raise InputError(
            field="tokenizer",
            problem=f"'{model}' does not have CLIP's vocabulary: give a local folder with the tokenizer {wanted}",
            got=folder or None,
        )
    from open_clip.tokenizer import HFTokenizer

    try:
        settings = {"tokenizer_mode": text.get("tokenizer_mode"), **(text.get("tokenizer_kwargs") or {})}
        return HFTokenizer(folder or wanted, context_length=length, **settings)
    except ImportError as error:
        raise InputError(field="tokenizer", problem=f"needs the package transformers ({error})", got=folder) from error
    except (OSError, ValueError) as error:
        raise InputError(field="tokenizer", problem=f"is no tokenizer's folder ({error})", got=folder) from error
