"""What a run was made with: versions, device, threads."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("mutoscope", "torch", "numpy", "timm", "open-clip-torch", "safetensors", "scipy", "av")


def environment(device: torch.device | str) -> dict[str, object]:
    """Versions, device, threads and machine, JSON-able; no path and no user name."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in PACKAGES},
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "system": f"{platform.system()} {platform.machine()}",
        "argv": [os.path.basename(sys.argv[0]), *sys.argv[1:]] if sys.argv else [],
    }


def peak_memory(device: torch.device | str) -> int:
    """Largest memory so far, bytes: of the device, or of the process where the device is the CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak_memory(device: torch.device | str | None = None) -> None:
    """Starts `peak_memory` anew, so that what ran before in this process does not count; where the system allows it.

    On the CPU that is Linux (proc(5), `clear_refs`); memory that the process still holds goes on counting.
    """
    if torch.cuda.is_available() and (device is None or torch.device(device).type == "cuda"):
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
