"""The writer `hugging_face`: prompts made longer by a language model from a local folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from mutoscope.core.errors import InputError
from mutoscope.core.randomness import Draw
from mutoscope.core.settings import Count, NonNegative
from mutoscope.core.writer import Writer
from mutoscope.plugins.language.attributes import WORLD, Groups
from mutoscope.plugins.language.expander import expanded

ASKED = (
    "Rewrite each short caption of a video as one descriptive sentence. Keep every detail that it states.\n"
    "Short: a dog\nLong: a brown dog runs slowly over a green lawn, seen from the side in soft light\n"
    "Short: {prompt}\nLong:"
)


@final
class HuggingFace(Writer):
    """Any causal language model of the Hugging Face format. Betker et al. 2023, app. C, asks GPT-4 in this way.

    Read from a local folder, with its tokenizer; nothing is downloaded, only safetensors are read and no code of the
    folder is run. Its weights stay where they are: they are no part of the recipe's checkpoints. What the prompt states
    is kept by check and repair, as in `expander`.

    folder: as `save_pretrained` writes it. asked: the words around `{prompt}`; what is written after them, up to the
    end of the line, is the text. tries: texts written for a prompt until one keeps what it states. length: tokens of a
    text. temperature: of writing; 0 takes the likeliest token. groups: words that exclude each other.
    """

    name = "hugging_face"
    paper = "Betker et al. 2023, Improving image generation with better captions"

    def __init__(
        self,
        *,
        folder: str = "",
        asked: str = ASKED,
        tries: Count = 4,
        length: Count = 64,
        temperature: NonNegative = 0.7,
        groups: Groups = WORLD,
    ) -> None:
        super().__init__()
        if "{prompt}" not in asked:
            raise ValueError("asked: must have {prompt} where the prompt is to stand")
        if not (Path(folder) / "config.json").is_file():
            raise InputError(field="folder", problem="is no local folder of a Hugging Face model", got=folder)
        self.folder, self.asked, self.tries, self.length = folder, asked, tries, length
        self.temperature, self.groups = temperature, groups
        self._held: tuple[Any, Any] | None = None
        _library()

    def forward(self, text: str, seed: int, device: torch.device | str) -> str:
        """What the model writes after a text, up to the end of the line."""
        model, tokenizer = self._loaded(device)
        asked = tokenizer(text, return_tensors="pt").to(device)
        told = {"do_sample": True, "temperature": self.temperature} if self.temperature else {"do_sample": False}
        devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            made = model.generate(**asked, **told, max_new_tokens=self.length, pad_token_id=tokenizer.pad_token_id or 0)
        new = made[0, asked["input_ids"].shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True).strip().partition("\n")[0].strip()

    def write(self, given: Sequence[str] | Tensor, draw: Draw) -> list[str]:
        """A longer text for each prompt. Raises InputError on clips."""
        if isinstance(given, Tensor):
            raise InputError(field="writer", problem="hugging_face makes prompts longer; it does not caption clips")
        prompts = list(given)
        return expanded(prompts, self._candidates(prompts, draw), self.groups)

    def _candidates(self, prompts: list[str], draw: Draw) -> Iterable[Callable[[list[int]], list[str]]]:
        def trial(i: int, verbatim: bool) -> Callable[[list[int]], list[str]]:
            def write(places: list[int]) -> list[str]:
                texts = []
                for place in places:
                    begun = prompts[place] if verbatim else ""
                    one = draw.at(2 * i + verbatim).of([draw.clips[place]])
                    seed = int(one.uniform("text").item() * (1 << 24))
                    asked = f"{self.asked.replace('{prompt}', prompts[place])} {begun}".rstrip()
                    texts.append(f"{begun} {self(asked, seed, draw.device)}".strip())
                return texts

            return write

        yield from (trial(i, False) for i in range(self.tries))
        yield from (trial(i, True) for i in range(self.tries))

    def _loaded(self, device: torch.device | str) -> tuple[Any, Any]:
        """Model and tokenizer, read at first use. Raises InputError on a folder that cannot be read."""
        if self._held is None:
            library = _library()
            try:
                model = library.AutoModelForCausalLM.from_pretrained(
                    self.folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
                )
                tokenizer = library.AutoTokenizer.from_pretrained(
                    self.folder, local_files_only=True, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, ImportError) as error:
                said = " ".join(str(error).split())[:200]
                raise InputError(field="folder", problem=f"cannot be read ({said})", got=self.folder) from None
            self._held = (model.eval().requires_grad_(False), tokenizer)
        model, tokenizer = self._held
        return model.to(device), tokenizer

    @classmethod
    def material(cls, folder: Path) -> dict[str, Any]:
        """A model of two layers with a tokenizer of bytes."""
        library = _library()
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {letter: i for i, letter in enumerate(["<end>", *letters])}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
        library.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
        size = len(vocabulary)
        config = library.GPT2Config(
            vocab_size=size, n_embd=32, n_layer=2, n_head=2, n_positions=512, bos_token_id=0, eos_token_id=0
        )
        library.GPT2LMHeadModel(config).save_pretrained(folder, safe_serialization=True)
        return {"folder": str(folder), "length": 8, "tries": 1}


def _library() -> Any:
    """transformers. Raises InputError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise InputError(
            field="writer", problem="hugging_face needs transformers, which is not here: pip install transformers"
        ) from None
    return transformers
