"""The schema of recipes, made from the constructors: for editors as JSON schema, for readers as tables.

What a constructor is as a contract is read in `contract`, settings are checked in `checking`; their names are here too.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from mutoscope.core.component import Component
from mutoscope.core.training.plan import Descent
from mutoscope.registry.catalog import Catalog
from mutoscope.registry.checking import (
    Problem,
    check_definition,
    check_fields,
    check_settings,
    part_named,
    settings_model,
    writable,
)
from mutoscope.registry.contract import (
    NOTHING,
    RESERVED,
    DefinitionError,
    FactNeed,
    Setting,
    fact_needs,
    settings_of,
)
from mutoscope.registry.recipe import PARTS, STAGE_KEYS
from mutoscope.registry.wording import plain, words

__all__ = [
    "NOTHING",
    "RESERVED",
    "DefinitionError",
    "FactNeed",
    "Problem",
    "Setting",
    "check_definition",
    "check_fields",
    "check_settings",
    "fact_needs",
    "json_schema",
    "part_named",
    "settings_model",
    "settings_of",
    "settings_table",
]


def json_schema(catalog: Catalog) -> dict[str, Any]:
    """The JSON schema (2020-12) of whole recipes with the parts of a catalogue, which editors complete from."""
    return _Schemas(catalog).recipe()


def settings_table(cls: type[Component]) -> str:
    """The settings of a part as a Markdown table: name, type, default, meaning."""
    rows = ["| setting | is | default | meaning |", "|---|---|---|---|"]
    for s in settings_of(cls):
        kind = f"parts of the role {s.nested}, by name" if s.many else words(s.annotation)
        default = "required" if s.default is NOTHING else f"`{json.dumps(plain(s.default))}`"
        cells = (f"`{s.name}`", kind, default, s.doc)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


class _Schemas:
    """JSON schemas of parts, each once, under `$defs`: a role or capability by its word, a part as `ROLE.NAME`."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.defs: dict[str, Any] = {}

    def recipe(self) -> dict[str, Any]:
        parts = {role: self.role(role) for role in PARTS}
        parts["conditioner"] = {"anyOf": [parts["conditioner"], {"type": "array", "items": parts["conditioner"]}]}
        texts = {"type": "array", "items": {"type": "string"}}
        training = self.training()
        stage = {"name": {"type": "string"}, "view": self.view(), **{k: parts[k] for k in parts if k in STAGE_KEYS}}
        top = {
            "name": {"type": "string", "description": "what runs of this recipe are called"},
            "extends": {"type": "string", "description": "a recipe that this one changes: a shipped name, or a path"},
            "plugins": {**texts, "description": "plugin files, relative to this one"},
            **parts,
            "training": training,
            "metrics": {"type": "array", "items": self.role("metric")},
            "stages": {"type": "array", "items": _mapping({**stage, "training": training}, ("name",))},
            "published": {"description": "what the paper says of the system, to be compared with"},
        }
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Mutoscope recipe",
            **_mapping(top),
            "$defs": dict(sorted(self.defs.items())),
        }

    def role(self, word: str, within: type[Component] | None = None) -> dict[str, Any]:
        """A reference to any part of a role, or of a capability within it."""
        name = word if within is None or within.__dict__.get("role") else within.__name__
        if name not in self.defs:
            self.defs[name] = {}  # parts may nest in their own kind
            classes = [c for c in self.catalog.classes(word).values() if within is None or issubclass(c, within)]
            bare = [c.name for c in classes if all(s.default is not NOTHING for s in settings_of(c))]
            partial = {"type": "object", "not": {"required": ["type"]}}
            options = [{"enum": bare}] if bare else []
            self.defs[name] = {"anyOf": [*options, *map(self.part, classes), partial]}
        return {"$ref": f"#/$defs/{name}"}

    def part(self, cls: type[Component]) -> dict[str, Any]:
        name = f"{cls.role}.{cls.name}"
        if name not in self.defs:
            self.defs[name] = {}
            settings = {s.name: self.setting(s) for s in settings_of(cls)}
            required = [s.name for s in settings_of(cls) if s.default is NOTHING]
            reserved = {"weights": self.type(RESERVED["weights"]), "frozen": self.type(RESERVED["frozen"])}
            keys = {"type": {"const": cls.name}, **settings, **reserved}
            self.defs[name] = {"description": cls.summary(), **_mapping(keys, ("type", *required))}
        return {"$ref": f"#/$defs/{name}"}

    def setting(self, setting: Setting) -> dict[str, Any]:
        said = {"description": setting.doc} if setting.doc else {}
        if setting.default is not NOTHING:
            said["default"] = plain(setting.default)
        if setting.nested is None:
            return {**self.type(setting.annotation), **said}
        one = self.role(setting.nested, setting.part)
        schema = {"type": "object", "additionalProperties": one} if setting.many else one
        return {"anyOf": [schema, {"type": "null"}] if setting.optional else [schema], **said}

    def type(self, annotation: Any) -> dict[str, Any]:
        """A plain setting's type; definitions that it refers to move to the top."""
        schema = TypeAdapter(writable(annotation)).json_schema(ref_template="#/$defs/{model}")
        self.defs.update(schema.pop("$defs", {}))
        return schema

    def training(self) -> dict[str, Any]:
        hints = get_type_hints(Descent, include_extras=True)
        descent = {
            field.name: {**self.type(hints[field.name]), "default": plain(field.default)}
            for field in dataclasses.fields(Descent)
        }
        phase = {
            "learn": {"enum": ["autoencoder", "denoiser", "tower", "writer"]},
            "objective": self.role("objective"),
            "turns": {"type": "object", "additionalProperties": _mapping(descent)},
        }
        return _mapping({"phases": {"type": "array", "items": _mapping({**phase, **descent}, ("learn",))}, **descent})

    def view(self) -> dict[str, Any]:
        size = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 2, "maxItems": 2}
        return _mapping({"frames": {"type": "integer", "minimum": 1}, "size": size})


def _mapping(keys: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    schema = {"type": "object", "properties": keys, "additionalProperties": False}
    return {**schema, "required": list(required)} if required else schema
