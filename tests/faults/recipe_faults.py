"""Recipes with one mistake in each: what is changed, and the word that was meant where a word was mistyped."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mutoscope.core.training.plan import Descent
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.contract import settings_of
from mutoscope.registry.recipe import KEYS, PARTS
from mutoscope.registry.training import DESCENT, LEARNERS, PHASE, RUN

PIXELS = """
data: {type: shapes, frames: 5, size: [8, 8], clips: 20, held: 8, laws: [uniform, bounce], caption: short}
autoencoder: {type: identity}
patchifier: {type: spacetime, size: [1, 4, 4]}
conditioner: {type: text, width: 16, depth: 1, heads: 2, length: 12}
denoiser: {type: dit, width: 16, depth: 1, heads: 2}
objective: {type: flow, predict: velocity}
sampler: {type: euler, steps: 2, guidance: 2.0}
training: {batch: 4, steps: 8, lr: 1.0e-3, schedule: cosine, optimizer: adamw, warmup: 2, ema: 0.9, on_nan: stop}
metrics: [caption]
"""
LATENTS = """
data: {type: shapes, frames: 5, size: [16, 16], clips: 20, held: 8}
autoencoder: {type: causal_kl, channels: 4, stride: [2, 4, 4], width: 8, depth: 1}
patchifier: {type: spacetime, size: [1, 2, 2]}
conditioner: [{type: text, width: 16, depth: 1, heads: 2, length: 12}]
denoiser: {type: dit, width: 24, depth: 1, heads: 3}
objective: flow
sampler: {type: heun, steps: 3}
training:
  batch: 8
  accumulate: 2
  clip: 1.0
  phases:
    - {learn: autoencoder, objective: reconstruction, steps: 5, lr: 1.0e-3}
    - {learn: denoiser, budget: {samples: 64}, weight_decay: 0.1}
metrics: [caption, motion]
"""
CRITICS = """
data: {type: shapes, frames: 8, size: [16, 16], clips: 20, held: 8}
autoencoder: identity
patchifier: {type: spacetime, size: [1, 1, 1]}
denoiser: {type: vgan, code: 8, width: 4, doublings: 3}
objective: {type: adversarial, loss: softmax, discriminators: {video: {type: conv3d, width: 4, depth: 2, outputs: 2}}}
sampler: one_step
training: {batch: 4, steps: 2, betas: [0.5, 0.999], turns: {discriminator: {lr: 2.0e-4}}}
metrics: [kernel]
"""
BASES = tuple(YAML(typ="safe", pure=True).load(text) for text in (PIXELS, LATENTS, CRITICS))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Fault:
    """kind: of the mistake. text: of the recipe. meant: the word that was mistyped, or empty."""

    kind: str
    text: str
    meant: str = ""


def typo(word: str, known: set[str], chance: random.Random) -> str:
    """The word with one letter left out, put in, changed, doubled or swapped; none of the known ones."""
    while True:
        at, letter = chance.randrange(len(word)), chance.choice(LETTERS)
        wrong = chance.choice([
            word[:at] + word[at + 1 :],
            word[:at] + letter + word[at:],
            word[:at] + letter + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :],
        ])  # fmt: skip
        if wrong and wrong not in known and not wrong[0].isdigit() and wrong not in ("null", "true", "false"):
            return wrong


def dumped(data: Any) -> str:
    out = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None
    writer.dump(data, out)
    return out.getvalue()


def renamed(mapping: dict, old: str, new: str) -> None:
    """The same mapping with a key called otherwise, in its place."""
    items = [(new if key == old else key, value) for key, value in mapping.items()]
    mapping.clear()
    mapping.update(items)


class Faults:
    """Makes mistakes in recipes."""

    def __init__(self, catalog: Catalog, seed: int) -> None:
        self.catalog, self.chance = catalog, random.Random(seed)
        self.kinds: tuple[Callable[[], Fault], ...] = (
            self.top_key, self.setting_key, self.setting_key, self.training_key, self.phase_key, self.part_name,
            self.part_name, self.choice, self.learner, self.metric, self.wrong_type, self.wrong_type,
            self.out_of_range, self.out_of_range, self.missing, self.cross_field, self.misfit, self.dotted,
            self.document, self.document, self.extends, self.plugins, self.weights,
        )  # fmt: skip

    def one(self) -> Fault:
        return self.chance.choice(self.kinds)()

    def base(self, *needs: str) -> dict:
        """One of the recipes, which has these keys."""
        return copy.deepcopy(self.chance.choice([base for base in BASES if all(need in base for need in needs)]))

    def a_part(self) -> tuple[dict, str, dict, type]:
        """A recipe, a role in it whose part has settings, the part as it stands there, and its class."""
        data = self.base()
        found = []
        for role in PARTS:
            for part in data[role] if isinstance(data.get(role), list) else [data.get(role)]:
                if isinstance(part, dict) and len(part) > 1:
                    found.append((role, part))
        role, part = self.chance.choice(found)
        cls = self.catalog.find(role, part["type"])
        assert cls is not None
        return data, role, part, cls

    # Words

    def top_key(self) -> Fault:
        data = self.base()
        meant = self.chance.choice([key for key in data if key != "type"])
        renamed(data, meant, typo(meant, set(KEYS), self.chance))
        return Fault("top key", dumped(data), meant)

    def setting_key(self) -> Fault:
        data, _, part, cls = self.a_part()
        meant = self.chance.choice([key for key in part if key != "type"])
        known = {setting.name for setting in settings_of(cls)} | {"type", "weights", "frozen"}
        renamed(part, meant, typo(meant, known, self.chance))
        return Fault("setting", dumped(data), meant)

    def training_key(self) -> Fault:
        data = self.base()
        meant = self.chance.choice(list(data["training"]))
        renamed(data["training"], meant, typo(meant, set(RUN), self.chance))
        return Fault("training setting", dumped(data), meant)

    def phase_key(self) -> Fault:
        data = copy.deepcopy(BASES[1])
        phase = self.chance.choice(data["training"]["phases"])
        meant = self.chance.choice(list(phase))
        renamed(phase, meant, typo(meant, set(PHASE), self.chance))
        return Fault("phase setting", dumped(data), meant)

    def part_name(self) -> Fault:
        data = self.base()
        roles = [role for role in PARTS if role in data]
        role = self.chance.choice(roles)
        known = set(self.catalog.classes(role))
        part = data[role][0] if isinstance(data[role], list) else data[role]
        meant = part["type"] if isinstance(part, dict) else part
        wrong = typo(meant, known, self.chance)
        if isinstance(part, dict):
            part["type"] = wrong
        else:
            data[role] = wrong
        return Fault("part", dumped(data), meant)

    def choice(self) -> Fault:
        path, known = self.chance.choice([
            (("objective", "predict"), {"velocity", "clean", "noise", "flow"}),
            (("training", "schedule"), {"constant", "cosine", "linear", "rsqrt"}),
            (("training", "on_nan"), {"stop", "skip", "rollback"}),
            (("data", "caption"), {"short", "long", "descriptive"}),
        ])  # fmt: skip
        data = copy.deepcopy(BASES[0])
        meant = data[path[0]][path[1]]
        data[path[0]][path[1]] = typo(meant, known, self.chance)
        return Fault("choice", dumped(data), meant)

    def learner(self) -> Fault:
        data = copy.deepcopy(BASES[1])
        phase = self.chance.choice(data["training"]["phases"])
        meant = phase["learn"]
        phase["learn"] = typo(meant, set(LEARNERS), self.chance)
        return Fault("learner", dumped(data), meant)

    def metric(self) -> Fault:
        data = self.base("metrics")
        meant = data["metrics"][0]
        data["metrics"][0] = typo(meant, set(self.catalog.classes("metric")), self.chance)
        return Fault("metric", dumped(data), meant)

    # Values

    def wrong_type(self) -> Fault:
        """A number where it must be one is something else."""
        data, _, part, _ = self.a_part()
        where = self.chance.choice([part, data["training"]])
        if not any(isinstance(value, (int, float)) for value in where.values()):
            where = data["training"]
        key = self.chance.choice([k for k, v in where.items() if isinstance(v, (int, float)) and k != "seed"])
        where[key] = self.chance.choice(["seven", "3", [where[key]], {"x": 1}, True, "", [], "1e", "0x1", "--3"])
        return Fault("type", dumped(data))

    def out_of_range(self) -> Fault:
        data, _, part, _ = self.a_part()
        where = self.chance.choice([part, data["training"]])
        keys = [k for k, v in where.items() if isinstance(v, int) and k not in ("guidance", "held", "clips", "code")]
        if not keys:
            where, keys = data["training"], ["batch"]
        key = self.chance.choice(keys)
        where[key] = self.chance.choice([-1, -100, float("nan"), float("inf"), -(10**30), 1.5])
        return Fault("range", dumped(data))

    def missing(self) -> Fault:
        data = self.base()
        if self.chance.random() < 0.5:
            del data[self.chance.choice([k for k in ("data", "denoiser", "autoencoder", "patchifier") if k in data])]
            if "denoiser" not in data:
                data["training"].pop("phases", None)
        else:
            part = self.chance.choice([p for p in data.values() if isinstance(p, dict) and "type" in p])
            del part["type"]
        return Fault("missing", dumped(data))

    def cross_field(self) -> Fault:
        """Settings each of which may be so, but not together."""
        pixels, latents, _ = copy.deepcopy(BASES)

        def put(data: dict, path: str, value: Any) -> Fault:
            *keys, last = path.split(".")
            place = data
            for key in keys:
                place = place[int(key)] if isinstance(place, list) else place[key]
            place[last] = value
            return Fault("cross-field", dumped(data))

        chance = self.chance
        return chance.choice([
            lambda: put(pixels, "denoiser.heads", chance.choice([3, 5, 7])),
            lambda: put(latents, "denoiser.heads", chance.choice([5, 7, 9])),
            lambda: put(pixels, "conditioner.heads", chance.choice([3, 5])),
            lambda: put(pixels, "patchifier.size", chance.choice([[2, 4, 4], [1, 3, 3], [1, 4, 5], [1, 16, 16]])),
            lambda: put(latents, "patchifier.size", chance.choice([[2, 2, 2], [1, 3, 2], [1, 8, 8]])),
            lambda: put(latents, "data.frames", chance.choice([4, 6, 8])),
            lambda: put(latents, "data.size", chance.choice([[18, 16], [16, 17], [15, 15]])),
            lambda: put(latents, "training.accumulate", chance.choice([3, 5, 7])),
            lambda: put(latents, "training.phases.1.steps", 5),
            lambda: put(latents, "training.phases.1.budget", {"samples": 3, "flops": 1e9}),
            lambda: put(latents, "training.phases.1.budget", {}),
            lambda: put(pixels, "data.objects", [3, 1]),
        ])()  # fmt: skip

    def misfit(self) -> Fault:
        """Another part, which does not fit; that may be one mismatch or several."""
        path, value = self.chance.choice([
            ("1.training.phases.0.objective", "flow"), ("0.objective", "next_token"), ("0.sampler", "one_step"),
            ("0.sampler", "raster"), ("1.denoiser", {"type": "gpt", "width": 16, "depth": 1, "heads": 2}),
            ("2.sampler", "euler"), ("2.objective", "flow"), ("0.autoencoder", "vq"),
        ])  # fmt: skip
        base, *keys = path.split(".")
        data = copy.deepcopy(BASES[int(base)])
        place = data
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[keys[-1]] = value
        return Fault("misfit", dumped(data))

    # Places and documents

    def dotted(self) -> Fault:
        data = self.base()
        role = self.chance.choice([role for role in PARTS if role in data])
        word = self.chance.choice([
            "os.system", "mutoscope.plugins.diffusion.dit.Dit", "../dit", "/etc/passwd", "builtins.eval", "dit;ls",
            "__import__", "dit\0", "Dit", "dit ", "${oc.env:HOME}", "plugins/dit",
        ])  # fmt: skip
        data[role] = self.chance.choice([{"type": word}, word, {"_target_": word, "type": word}, [word, word]])
        return Fault("target", dumped(data))

    def document(self) -> Fault:
        text = dumped(self.base())
        levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else '1'}]" for i in range(9)]
        return Fault("document", self.chance.choice([
            text + "denoiser: dit\n",
            text + "\tdata: shapes\n",
            text + "---\n" + text,
            "- " + text.replace("\n", "\n  "),
            text.replace("denoiser:", "denoiser: !!python/object/apply:os.system", 1),
            text.replace("data:", "data: !!python/name:os.system", 1),
            text.replace("data:", "? [a, b]\n:", 1),
            text.replace("}", "", 1),
            text + "x: *nowhere\n",
            "\n".join(levels) + "\n" + text,
            text + "# " + "x" * 10_000_000,
            "data: " + "[" * 3000 + "]" * 3000,
            text.replace("data:", "data: &d\n  x: *d\n #", 1),
            text.encode().decode("latin-1").replace("data", "dat\x00a", 1),
            "",
            "just words",
            text.replace("training:", "training: 3 #", 1),
            text.replace("metrics:", "metrics: {a: 1} #", 1),
        ]))  # fmt: skip

    def extends(self) -> Fault:
        if self.chance.random() < 0.7:
            meant = "quickstart"
            wrong = typo(meant, {meant}, self.chance)
            return Fault("extends", f"extends: {wrong}\n" + dumped(self.base()), meant)
        wrong = self.chance.choice(
            ["../../etc/passwd", "/etc/passwd", "gone.yaml", "https://example.org/a.yaml", "a b"]
        )
        return Fault("extends", f"extends: {wrong}\n" + dumped(self.base()))

    def plugins(self) -> Fault:
        wrong = self.chance.choice(["[gone.py]", "gone.py", "[3]", "[../../x.py]", "['']", "[~nobody/x.py]", "{a: b}"])
        return Fault("plugins", f"plugins: {wrong}\n" + dumped(self.base()))

    def weights(self) -> Fault:
        data, _, part, _ = self.a_part()
        part["weights"] = self.chance.choice(
            ["gone.safetensors", "../x.pt", 3, ["a"], "/etc/passwd", "https://x.org/w"]
        )
        return Fault("weights", dumped(data))


assert set(DESCENT) <= set(PHASE) and Descent.seed == 0


def write(path: Path, fault: Fault) -> Path:
    path.write_bytes(fault.text.encode("utf-8", errors="surrogatepass"))
    return path
