"""Show versions, devices, threads, and what is missing and how to get it."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

OPTIONAL = {
    "diffusers": ("published", "published weights in diffusers' format"),
    "huggingface-hub": ("published", "published weights by hub name"),
    "torchmetrics": ("metrics", "a second opinion on distances"),
    "torchcodec": ("video", "faster decoding"),
    "webdataset": ("shards", "data in shards"),
    "tensorboard": ("tensorboard", "training.log: [tensorboard]"),
    "wandb": ("wandb", "training.log: [wandb]"),
    "ray": ("ray", "studies on Ray"),
    "submitit": ("slurm", "studies on SLURM"),
    "scikit-learn": ("digits", "moving digits"),
    "cma": ("control", "controllers"),
}


def run(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    import torch

    from mutoscope.commands.output import show, show_json
    from mutoscope.core.training.provenance import environment
    from mutoscope.registry.catalog import Catalog

    told = environment("cuda" if torch.cuda.is_available() else "cpu")
    catalog = Catalog.load()
    missing = [
        {"package": name, "for": use, "get": f"pip install 'mutoscope[{extra}]'"}
        for name, (extra, use) in OPTIONAL.items()
        if not _installed(name)
    ]
    if not shutil.which("c++") and not shutil.which("g++") and not shutil.which("clang++"):
        missing.append(
            {"package": "a C++ compiler", "for": "training.compile on a CPU", "get": "your system's packages"}
        )
    failures = [str(failure) for failure in catalog.failures]
    if json:
        show_json({**told, "plugins": len(catalog.plugins), "failures": failures, "missing": missing})
        return
    rows = [{"what": key, "value": _told(value)} for key, value in told.items() if key != "argv"]
    show(rows, ("what", "value"), as_json=False)
    typer.echo(f"\n{len(catalog.plugins)} plugins work" + "".join(f"\nbroken: {failure}" for failure in failures))
    if missing:
        typer.echo("\nmissing, all optional:")
        show(missing, ("package", "for", "get"), as_json=False)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _told(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
