"""Convert a pickled or published checkpoint to safetensors, once.

A .pt, .pth, .bin or .ckpt file is read weights-only in a child process of limited memory, time and files: nothing in
it is run. This is the only place that reads pickles.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

SECONDS = 600
"""How long reading a pickled file may take."""
MEMORY = 2 << 30
"""Bytes that reading may take beyond four times the file's size."""
PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar")
DEEP = 8
"""How deep mappings may lie in each other."""


def run(
    file: Annotated[Path, typer.Argument(help="A .pt, .pth, .bin, .ckpt or .safetensors file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings of --recipe: denoiser.depth=4")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; by default FILE.safetensors.")] = None,
    key: Annotated[str | None, typer.Option(help="Take what lies under this key: ema, state_dict.model.")] = None,
    map: Annotated[
        Path | None, typer.Option(help='JSON {"old": "new"}: names, or prefixes that end in a dot; null drops.')
    ] = None,
    part: Annotated[
        str | None, typer.Option(help="ROLE or ROLE:TYPE: check names and shapes against this part.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The recipe that --part stands in.")] = "quickstart",
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    from mutoscope.commands.output import show_json
    from mutoscope.core.errors import InputError

    if not file.is_file():
        raise InputError(f"{file}: no such file")
    out = out or Path(f"{file.name.removesuffix(file.suffix)}.safetensors")
    if out.exists():
        raise InputError(f"{out} is there already; choose another file with --out")
    renames = read_map(map) if map else {}
    if not out.absolute().parent.is_dir():
        raise InputError(f"{out}: its folder is not there")
    with tempfile.TemporaryDirectory(prefix=".tmp-import-", dir=out.absolute().parent) as folder:
        read = Path(folder) / "read.safetensors"
        told = read_pickled(file, key, read) if file.suffix != ".safetensors" else {"kept": 0, "left_out": []}
        tensors = renamed(_stored(file, key) if file.suffix == ".safetensors" else _stored(read, None), renames)
        if part:
            check_part(tensors, part, recipe, overrides or [], plugin or [])
        _write(Path(folder) / "whole.safetensors", out, tensors)
    said = {
        "file": str(out),
        "tensors": len(tensors),
        "parameters": sum(t.numel() for t in tensors.values()),
        "left_out": told["left_out"],
    }
    if json:
        show_json(said)
        return
    for name in told["left_out"]:
        typer.echo(f"left out: {name}, which is no tensor", err=True)
    typer.echo(out)


def read_pickled(file: Path, key: str | None, out: Path) -> dict[str, Any]:
    """Has a child process write the tensors of a pickled file to `out`. Raises InputError, in one line, if it fails."""
    from mutoscope.core.errors import InputError

    command = [sys.executable, "-m", "mutoscope.commands.import_", str(file.absolute()), str(out), key or ""]
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("TORCH_FORCE_")} | {"OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            command, cwd=out.parent, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"{file}: reading it took longer than {SECONDS} seconds; nothing is imported") from None
    last = (child.stdout.decode(errors="replace").strip().splitlines() or [""])[-1]
    try:
        told = json_module.loads(last)
        assert isinstance(told, dict)
    except (ValueError, AssertionError):
        raise InputError(
            f"{file}: cannot be read: the process that read it ended with {child.returncode}, out of memory or time"
        ) from None
    if "error" in told:
        raise InputError(f"{file}: {told['error']}")
    return told


def read_map(file: Path) -> dict[str, str | None]:
    """New names by old ones. Raises InputError."""
    from mutoscope.core.errors import InputError

    try:
        said = json_module.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is no readable JSON file: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict) or not all(isinstance(new, str) or new is None for new in said.values()):
        raise InputError(f'{file}: must be a mapping of names, {{"old": "new"}}')
    return said


def renamed(tensors: Mapping[str, Tensor], renames: Mapping[str, str | None]) -> dict[str, Tensor]:
    """The tensors under new names: a whole name first, else the longest prefix. Raises InputError on a rename that
    nothing has, and on two tensors of one name."""
    from mutoscope.core.errors import InputError

    used: set[str] = set()
    made: dict[str, Tensor] = {}
    prefixes = sorted((old for old in renames if old.endswith(".")), key=len, reverse=True)
    for name, tensor in tensors.items():
        old = name if name in renames else next((p for p in prefixes if name.startswith(p)), None)
        new = name
        if old is not None:
            used.add(old)
            said = renames[old]
            if said is None:
                continue
            new = said + name[len(old) :]
        if new in made or not new:
            raise InputError(field="--map", problem="gives two tensors one name, or none", got=new)
        made[new] = tensor
    if unused := sorted(set(renames) - used):
        raise InputError(field="--map", problem="no tensor is called this", got=unused[0], allowed=tensors)
    return made


def check_part(
    tensors: Mapping[str, Tensor], part: str, recipe: str, overrides: list[str], plugins: list[Path]
) -> None:
    """Raises InputError where names or shapes are not those of a part of a recipe."""
    from mutoscope.core.errors import InputError
    from mutoscope.registry.assembly import assemble
    from mutoscope.registry.catalog import Catalog
    from mutoscope.registry.recipe import load_recipe

    role, _, name = part.partition(":")
    loaded = load_recipe(recipe, [*([f"{role}.type={name}"] if name else []), *overrides])
    made = assemble(loaded, Catalog.load([*plugins, *loaded.plugins]), "meta").made
    if role not in made:
        raise InputError(field="--part", problem="the recipe has no such part", got=role, allowed=made)
    wanted = {n: tuple(t.shape) for n, t in made[role].part.state_dict().items()}
    stored = {n: tuple(t.shape) for n, t in tensors.items()}
    wrong = [n for n in sorted({*wanted, *stored}) if wanted.get(n) != stored.get(n)]
    if wrong:
        has, wants = (list(found[wrong[0]]) if wrong[0] in found else "none" for found in (stored, wanted))
        more = f", and {len(wrong) - 1} more names differ" if len(wrong) > 1 else ""
        raise InputError(
            field="--part", problem=f"{made[role].type.name} wants {wants} for '{wrong[0]}'; the file has {has}{more}"
        )


def _stored(file: Path, key: str | None) -> dict[str, Tensor]:
    from mutoscope.core.errors import InputError
    from mutoscope.core.storage.weights import load_tensors

    tensors = load_tensors(file)
    if key is None:
        return tensors
    within = {name.removeprefix(f"{key}."): t for name, t in tensors.items() if name.startswith(f"{key}.")}
    if not within:
        raise InputError(field="--key", problem="nothing lies under this key", got=key, allowed=_heads(tensors))
    return within


def _heads(names: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def _write(temporary: Path, out: Path, tensors: Mapping[str, Tensor]) -> None:
    from mutoscope.core.storage.atomic import flush_file, flush_folder
    from mutoscope.core.storage.weights import save_tensors

    save_tensors(temporary, tensors)
    flush_file(temporary)
    os.replace(temporary, out)
    flush_folder(out.absolute().parent)


# The child process


def child(file: str, out: str, key: str) -> dict[str, Any]:
    """Reads a pickled file under limits and writes its tensors; gives what to tell the parent."""
    import torch

    from mutoscope.core.storage.weights import save_tensors

    torch.set_num_threads(1)
    limit(4 * os.path.getsize(file) + MEMORY)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        return {"error": "reading it takes more memory than its size allows; nothing is imported"}
    except Exception as error:
        first = " ".join(str(error).split()).partition("Please file an issue")[0]
        return {"error": f"is not a file of weights alone, or is damaged: {type(error).__name__}: {first[:300]}"}
    found = dict(leaves(content))
    if key:
        found = {n.removeprefix(f"{key}."): v for n, v in found.items() if n.startswith(f"{key}.")}
    tensors = {n: v for n, v in found.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        return {"error": f"has no tensors{f' under {key!r}' if key else ''}"}
    if not key:
        heads = list(dict.fromkeys(n.partition(".")[0] for n in tensors))
        tops = [n for n, v in content.items() if isinstance(v, dict)] if isinstance(content, dict) else []
        inner = [head for head in heads if head in tops]
        if len(inner) > 1 or (inner and len(heads) > 1):
            return {"error": f"holds several sets of tensors: {', '.join(heads)}; choose one with --key"}
        if inner:
            tensors = {n.removeprefix(f"{inner[0]}."): v for n, v in tensors.items()}
    if odd := next((n for n, t in tensors.items() if t.layout is not torch.strided or t.is_quantized), None):
        return {"error": f"{odd} is a sparse or quantised tensor, which cannot be imported"}
    save_tensors(Path(out), tensors)
    return {"kept": len(tensors), "left_out": [n for n, v in found.items() if not isinstance(v, torch.Tensor)][:20]}


def leaves(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """What lies in nested mappings, under dotted names."""
    if isinstance(content, dict) and depth < DEEP:
        for key, value in content.items():
            yield from leaves(value, f"{name}.{key}" if name else str(key), depth + 1)
    else:
        yield name or "tensor", content


def limit(memory: int) -> None:
    """Limits this process: memory beyond what it has, seconds, bytes it may write, files it may open."""
    try:
        import resource
    except ImportError:  # no Unix; the parent's patience and weights-only reading remain
        return
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    except (OSError, ValueError):
        pass
    for what, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, memory), (resource.RLIMIT_NOFILE, 64)):
        resource.setrlimit(what, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    print(json_module.dumps(child(*sys.argv[1:])))
