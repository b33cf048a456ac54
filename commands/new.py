"""Write a plugin file for a new part, and its test: a working part to change, which passes `check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

USES = {
    "data": ["data={name}"],
    "autoencoder": ["autoencoder={name}"],
    "patchifier": ["patchifier={name}"],
    "conditioner": ["conditioner={name}"],
    "denoiser": ["denoiser={name}"],
    "objective": ["objective={name}"],
    "sampler": ["sampler={name}"],
    "metric": ["metrics=[{name}]"],
    "tower": [],
    "writer": [],
    "discriminator": [],
}
"""How `quickstart` is told to use a part of each role; not at all where it has none of that role."""

TAKEN = ("type", "weights", "frozen", "mutoscope", "torch", "numpy", "einops", "pluggy", "pytest", "conftest")
"""Keys of every part, and modules that a file of the name would hide."""


def run(
    role: Annotated[str, typer.Argument(help="denoiser, sampler, objective, ...")],
    name: Annotated[str, typer.Argument(help="The part's name: lower-case letters, digits, underscores.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")] = Path(),
) -> None:
    from mutoscope.core.errors import InputError

    check_names(role, name)
    part, test = out / f"{name}.py", out / f"test_{name}.py"
    for file in (part, test):
        if file.exists() or file.is_symlink():
            raise InputError(f"{file} is there already; nothing is written")
    try:
        out.mkdir(parents=True, exist_ok=True)
        part.write_text(source(role, name), encoding="utf-8")
        test.write_text(source_of_test(role, name), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: cannot be written to: {error.strerror}") from None
    typer.echo(part)
    typer.echo(test)
    typer.echo(f"\nmutoscope check {part}\npytest {test}", err=True)
    if USES[role]:
        use = " ".join(USES[role]).format(name=name)
        typer.echo(f"mutoscope train quickstart {use!r} --plugin {part}", err=True)
    if role == "denoiser":
        typer.echo(f"mutoscope compare quickstart --swap denoiser=dit,{name} --plugin {part}", err=True)


def check_names(role: str, name: str) -> None:
    """Raises InputError on a role that is none, and on a name that no part or no module can have."""
    import keyword
    import sys

    from mutoscope.core.errors import InputError

    if role not in USES:
        raise InputError(field="role", problem="there is no such role", got=role, allowed=USES)
    rule = "lower-case letters, digits and underscores, a letter first"
    plain = name.isascii() and name.isidentifier() and name == name.lower() and name[0] != "_"
    if not plain or len(name) > 60:
        raise InputError(field="name", problem="a part is called by one word", got=name, allowed=rule)
    if keyword.iskeyword(name) or name in sys.stdlib_module_names or name in TAKEN:
        raise InputError(field="name", problem="is a word of Python's or of every recipe's; choose another", got=name)


def source(role: str, name: str) -> str:
    """The plugin file."""
    return _named(_template(f"{role}.py"), name)


def source_of_test(role: str, name: str) -> str:
    """Its test; of a part that `quickstart` has no place for, its contract alone."""
    text = _template("contract_test.py").replace('classes("denoiser")', f'classes("{role}")')
    if USES[role]:
        text = text.replace('"denoiser=my_part"', ", ".join(f'"{use}"' for use in USES[role]).format(name=name))
    else:
        text = text.partition("\n\n\ndef test_a_recipe_names_it")[0] + "\n"
        kept = [line for line in text.split("\n") if "registry.describe" not in line and "registry.recipe" not in line]
        text = "\n".join(kept)
    return _named(text, name)


def _template(file: str) -> str:
    from importlib.resources import files

    return (files("mutoscope.commands") / "templates" / file).read_text(encoding="utf-8")


def _named(text: str, name: str) -> str:
    """A template under another name. Its class is called like the part, unless the template uses that word."""
    camel = "".join(word.capitalize() for word in name.split("_"))
    if camel in re.findall(r"\w+", text):
        camel += "Part"
    return text.replace("my_part", name).replace("MyPart", camel)
