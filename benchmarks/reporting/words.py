"""How the report says numbers: short, with units, and never more digits than are meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

ARROWS = {"higher": "↑", "lower": "↓"}
"""Which way is better."""


def headline(metrics: Sequence[str]) -> str | None:
    """The metric that a verdict names: the first that asks for everything at once, else the first."""
    return next((name for name in metrics if name.endswith(".all")), next(iter(metrics), None))


def best(rows: Sequence[Mapping[str, Any]], better: str) -> Mapping[str, Any] | None:
    """The row of the best value: of the floors, the one that a model must clear."""
    return (min if better == "lower" else max)(rows, key=lambda row: row["value"], default=None)


def worst(rows: Sequence[Mapping[str, Any]], better: str) -> Mapping[str, Any] | None:
    """The row of the worst value: of the ceilings, what the round trip through the autoencoder still lets through."""
    return (max if better == "lower" else min)(rows, key=lambda row: row["value"], default=None)


def short(value: float | None) -> str:
    """A score: three decimals, or three digits where it is large or very small; a real minus sign."""
    if value is None:
        return "–"
    size = abs(value)
    text = f"{value:.3f}" if 0.0005 <= size < 10 or size == 0 else f"{value:.3g}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """A difference, with its sign."""
    return f"+{short(value)}" if value > 0 else short(value)


def quantity(value: float | None, unit: str = "") -> str:
    """1.234e13 with a power of ten in words of SI: `12.3 T` and the unit."""
    if value is None:
        return "not counted"
    for size, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}\u00a0{prefix}{unit}"
    return f"{value:.3g}\u00a0{unit}".rstrip()


def size(value: float | None) -> str:
    """Bytes."""
    return "–" if value is None else quantity(value, "B")


def whole(value: float | None) -> str:
    """A count, in full."""
    return "–" if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds, or minutes and hours where there are many."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.3g}\u00a0s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}\u00a0min {rest:02d}\u00a0s"
    return f"{minutes // 60}\u00a0h {minutes % 60:02d}\u00a0min"


def setting(value: Any) -> str:
    """A setting as a recipe would say it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(setting, value))}]"
    return "null" if value is None else str(value)
