"""The report's figures, as SVG that stands inside the page and takes its colours and its type from it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

from mutoscope.benchmarks.reporting.words import best, headline, worst

ARMS = 8
"""Colours that the page has for arms; more arms use them again."""
INK, FAINT, RULE = "#000102", "#000304", "#000506"
"""Stand-ins for the page's colours of text, of what frames a value, and of lines; replaced by its variables."""
WIDTH = 8.4
"""Inches, which the page scales to its column."""
ROW = 0.30
"""Inches of an arm's row in a forest."""
COSTS = (
    ("training_flops", "training FLOPs"),
    ("parameters", "denoiser parameters"),
    ("sampling_calls", "network calls per clip"),
    ("sampling_seconds", "seconds to sample a clip"),
)
"""What quality is plotted against, where arms differ in it by more than a hundredth."""
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mutoscope",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
}


@rc_context(STYLE)
def scores(results: Mapping[str, Any]) -> str:
    """Every metric's values with intervals, each seed's value, between the best floor and the lowest ceiling."""
    cells, rows, references = results["cells"], results["rows"], results["references"]
    arms = [arm["name"] for arm in results["arms"]]
    metrics = list(dict.fromkeys(cell["metric"] for cell in cells))
    if not metrics:
        return ""
    figure, axes = _forest([len(arms)] * len(metrics))
    shares = False
    for i, (ax, metric) in enumerate(zip(axes, metrics, strict=True)):
        mine = {cell["arm"]: cell for cell in cells if cell["metric"] == metric}
        better = next(iter(mine.values()))["better"]
        framing = [r for r in references if r["metric"] == metric]
        frame = [best([r for r in framing if r["kind"] == "floor"], better),
                 worst([r for r in framing if r["kind"] == "ceiling"], better)]  # fmt: skip
        for found, style in zip(frame, ((0, (2, 2)), "solid"), strict=True):
            if found is not None:
                ax.axvline(found["value"], color=FAINT, linestyle=style, linewidth=1.1, zorder=1)
        for place, arm in enumerate(arms):
            if arm not in mine:
                continue
            cell, y = mine[arm], -place
            seeds = [row["value"] for row in rows if row["arm"] == arm and row["metric"] == metric]
            _interval(ax, cell, y, _colour(arms, arm), filled=cell["reliable"])
            if len(seeds) > 1:
                ax.plot(seeds, [y - 0.26] * len(seeds), "|", color=_colour(arms, arm), markersize=5, alpha=0.8)
        values = [v for c in mine.values() for v in (c["low"], c["high"])] + [f["value"] for f in frame if f]
        share = _label(ax, metric, better, values)
        if i and share and shares:
            axes[i - 1].tick_params(labelbottom=False)
        shares = share
    return _svg(figure, "scores", "Scores of every arm with 95% intervals, between floor and ceiling")


@rc_context(STYLE)
def differences(results: Mapping[str, Any]) -> str:
    """Paired differences between arms with intervals, against no difference."""
    told = results["differences"]
    metrics = list(dict.fromkeys(d["metric"] for d in told))
    if not metrics:
        return ""
    counts = [sum(d["metric"] == metric for d in told) for metric in metrics]
    several = len(results["arms"]) > 2
    figure, axes = _forest(counts, room=0.63 if several else 0.83)
    most = max(max(abs(d["low"]), abs(d["high"])) for d in told)
    together = most <= 1
    for i, (ax, metric) in enumerate(zip(axes, metrics, strict=True)):
        mine = [d for d in told if d["metric"] == metric]
        ax.axvline(0, color=FAINT, linewidth=1.1, zorder=1)
        for place, d in enumerate(mine):
            told_apart = d["p"] is not None and d["verdict"].endswith("is better")
            _interval(ax, {"value": d["difference"], **d}, -place, INK, filled=told_apart)
            if several:
                ax.text(1.01, -place, f"{d['b']} − {d['a']}", transform=ax.get_yaxis_transform(), va="center", size=7.5)
        reach = 1.12 * (most if together else max(max(abs(d["low"]), abs(d["high"])) for d in mine)) or 1.0
        ax.set_xlim(-reach, reach)
        ax.set_ylabel(metric, rotation=0, ha="right", va="center")
        if together and i < len(metrics) - 1:
            ax.tick_params(labelbottom=False)
    return _svg(figure, "differences", "Paired differences between arms with 95% intervals")


def curves(results: Mapping[str, Any]) -> str:
    """Losses of the compared phase against steps and against FLOPs, and the gradient norm; each seed thin."""
    arms = [arm["name"] for arm in results["arms"]]
    phases = {arm["phase"] for arm in results["arms"]}
    told = [curve for curve in results["curves"] if curve["phase"] in phases and len(curve["x"]) > 1]
    losses = [c for c in told if c["name"] in ("loss", "learner.loss")]
    norms = [c for c in told if c["name"].endswith("gradient_norm")]
    panels = [
        (losses, "x", "loss", "steps"),
        (losses, "flops", "loss", "training FLOPs"),
        (norms, "x", "gradient norm", "steps"),
    ]
    panels = [panel for panel in panels if panel[0]]
    return _lines(panels, arms, "curves", "Training curves of the compared phase") if panels else ""


def earlier_curves(results: Mapping[str, Any]) -> str:
    """Losses of the phases before the compared one, each training once."""
    arms = [arm["name"] for arm in results["arms"]]
    phases = {arm["phase"] for arm in results["arms"]}
    told = [
        c
        for c in results["curves"]
        if c["phase"] not in phases and c["name"] in ("loss", "learner.loss") and not c["reused"] and len(c["x"]) > 1
    ]
    names = list(dict.fromkeys(c["phase"] for c in told))
    panels = [([c for c in told if c["phase"] == name], "x", f"loss of {name}", "steps") for name in names]
    return _lines(panels, arms, "earlier", "Training curves of earlier phases") if panels else ""


@rc_context(STYLE)
def pareto(results: Mapping[str, Any]) -> str:
    """The headline metric against what an arm costs, where arms differ in that; the line joins arms that no other beats
    at their cost or below."""
    metric = headline([cell["metric"] for cell in results["cells"]])
    cells = {cell["arm"]: cell for cell in results["cells"] if cell["metric"] == metric}
    panels = [
        (key, label)
        for key, label in COSTS
        if _differ([arm[key] for arm in results["arms"] if arm["name"] in cells and arm[key]])
    ]
    if not panels or metric is None or len(cells) < 2:
        return ""
    arms = [arm["name"] for arm in results["arms"]]
    lower = next(iter(cells.values()))["better"] == "lower"
    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(WIDTH, 2.9 * rows + 0.2))
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, (key, label) in zip(axes.flat, panels, strict=False):
        points = [(arm[key], arm["name"]) for arm in results["arms"] if arm[key] and arm["name"] in cells]
        for x, arm in points:
            cell = cells[arm]
            ax.plot([x, x], [cell["low"], cell["high"]], color=_colour(arms, arm), linewidth=1.6, alpha=0.6, zorder=2)
            ax.plot([x], [cell["value"]], "o", color=_colour(arms, arm), markersize=5.5, zorder=3)
            if len(points) <= ARMS:
                ax.annotate(arm, (x, cell["value"]), xytext=(5, 4), textcoords="offset points", fontsize=7.5)
        front = _front([(x, cells[arm]["value"]) for x, arm in points], lower)
        ax.plot(*zip(*front, strict=True), color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)), zorder=1)
        if max(x for x, _ in points) > 3 * min(x for x, _ in points):
            ax.set_xscale("log")
            ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(EngFormatter(sep="\u2009"))
        ax.margins(x=0.14)
        ax.set_xlabel(label)
        ax.set_title(f"{metric} {'↓' if lower else '↑'}", loc="left", fontsize=9)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.19 / rows, top=1 - 0.1 / rows, wspace=0.22, hspace=0.55)
    return _svg(figure, "pareto", f"{metric} against what the arms cost")


def _differ(costs: Sequence[float]) -> bool:
    """Whether some costs are more than a hundredth apart: budgets that were matched are not."""
    return len(costs) > 1 and max(costs) > 1.01 * min(costs)


def _front(points: Sequence[tuple[float, float]], lower: bool) -> list[tuple[float, float]]:
    """The points that none is better than at their cost or below, from cheap to dear."""
    sign = -1 if lower else 1
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -sign * p[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


@rc_context(STYLE)
def on_the_way(results: Mapping[str, Any]) -> str:
    """Scores against training FLOPs, as each run took its budget: thin lines are seeds, thick ones their means."""
    points = results["on the way"]
    metrics = list(dict.fromkeys(p["metric"] for p in points))
    first = headline(metrics)
    chosen = [m for m in dict.fromkeys([first, *metrics]) if m][:4]
    if not chosen:
        return ""
    arms = [arm["name"] for arm in results["arms"]]
    flops = {arm["name"]: arm["training_flops"] for arm in results["arms"]}
    rows = -(-len(chosen) // 2)
    figure = Figure(figsize=(WIDTH, 2.6 * rows + 0.2))
    axes = figure.subplots(rows, 2, squeeze=False)
    for ax, metric in zip(axes.flat, chosen, strict=False):
        for arm in arms:
            mine = [p for p in points if (p["arm"], p["metric"]) == (arm, metric)]
            scale = flops[arm] or 1.0
            by_seed: dict[int, list[tuple[float, float]]] = {}
            by_share: dict[float, list[float]] = {}
            for p in mine:
                by_seed.setdefault(p["seed"], []).append((p["share"] * scale, p["value"]))
                by_share.setdefault(p["share"], []).append(p["value"])
            for line in by_seed.values():
                ax.plot(*zip(*sorted(line), strict=True), color=_colour(arms, arm), linewidth=0.7, alpha=0.4)
            means = sorted((share * scale, float(np.mean(v))) for share, v in by_share.items())
            if means:
                ax.plot(*zip(*means, strict=True), "o-", color=_colour(arms, arm), linewidth=1.7, markersize=3.5)
        ax.set_xlabel("training FLOPs" if all(flops.values()) else "share of the budget")
        ax.xaxis.set_major_formatter(EngFormatter(sep="\u2009"))
        ax.set_title(metric, loc="left", fontsize=9)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.2 / rows, top=1 - 0.11 / rows, wspace=0.2, hspace=0.6)
    return _svg(figure, "way", "Scores against training FLOPs on the way to the budget's end")


@rc_context(STYLE)
def fit(results: Mapping[str, Any]) -> str:
    """Errors of all runs over compute, the power law through them, and what it predicted of the largest."""
    told = results["fit"]
    if not told or not told["law"]:
        return ""
    arms, law = [arm["name"] for arm in results["arms"]], told["law"]
    figure = Figure(figsize=(WIDTH, 3.2))
    ax = figure.add_axes((0.09, 0.17, 0.88, 0.75))
    for point in told["points"]:
        ax.plot([point["compute"]], [point["error"]], "o", color=_colour(arms, point["arm"]), markersize=4, alpha=0.8)
    low, high = min(p["compute"] for p in told["points"]), law["largest"]
    x = np.geomspace(low, high, 60)
    ax.plot(x, law["a"] * (x / high) ** -law["b"] + law["c"], color=INK, linewidth=1.3)
    if held := law["held out"]:
        ax.plot([held["compute"]], [held["predicted"]], "x", color=INK, markersize=8, markeredgewidth=1.6)
    ax.set_xscale("log")
    _logarithmic(ax, [p["error"] for p in told["points"]])
    ax.set_xlabel("training FLOPs of the compared phase")
    ax.set_title(f"1 − {told['metric']}", loc="left", fontsize=9)
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    return _svg(figure, "fit", "Error against compute with a power law")


@rc_context(STYLE)
def across(results: Mapping[str, Any]) -> str:
    """Interquartile means of normalised scores, with intervals."""
    told = results["across"]["iqm"]
    if not told:
        return ""
    arms = [arm["name"] for arm in results["arms"]]
    figure, (ax,) = _forest([len(told)], room=0.7)
    ax.axvline(0, color=FAINT, linestyle=(0, (2, 2)), linewidth=1.1, zorder=1)
    ax.axvline(1, color=FAINT, linewidth=1.1, zorder=1)
    for place, one in enumerate(told):
        _interval(ax, one, -place, _colour(arms, one["arm"]), filled=True)
        ax.text(1.01, -place, one["arm"], transform=ax.get_yaxis_transform(), va="center", size=7.5)
    ax.set_ylabel("all metrics ↑", rotation=0, ha="right", va="center")
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return _svg(figure, "across", "Interquartile means across metrics with 95% intervals")


@rc_context(STYLE)
def _lines(
    panels: Sequence[tuple[Sequence[Mapping[str, Any]], str, str, str]], arms: Sequence[str], name: str, said: str
) -> str:
    """Panels side by side, each some curves against one of their columns."""
    width = WIDTH if len(panels) > 1 else WIDTH / 2
    figure = Figure(figsize=(width, 2.5))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (told, x, what, against) in zip(axes, panels, strict=True):
        for curve in told:
            points = [(a, b) for a, b in zip(curve[x], curve["y"], strict=True) if np.isfinite(b)]
            colour = INK if name == "earlier" else _colour(arms, curve["arm"])
            ax.plot(*zip(*points, strict=True), color=colour, linewidth=1.2, alpha=0.8)
        _logarithmic(ax, [y for curve in told for y in curve["y"]])
        ax.set_xlabel(against)
        if x == "flops":
            ax.xaxis.set_major_formatter(EngFormatter(sep="\u2009"))
        ax.set_title(what, loc="left", fontsize=9)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.21, top=0.88, wspace=0.3)
    if width < WIDTH:
        figure.subplots_adjust(left=0.14)
    return _svg(figure, name, said)


def _logarithmic(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where values span more than a factor of five."""
    finite = [v for v in values if np.isfinite(v)]
    if finite and min(finite) > 0 and max(finite) > 5 * min(finite):
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())


def _forest(rows: Sequence[int], room: float = 0.83) -> tuple[Figure, list[Axes]]:
    """A figure of one small axis per metric, one above the other, with room for its rows."""
    heights = [ROW * n + 0.28 for n in rows]
    height = sum(heights) + 0.3
    figure = Figure(figsize=(WIDTH, height))
    axes, top = [], height - 0.04
    for n, tall in zip(rows, heights, strict=True):
        ax = figure.add_axes((0.15, (top - tall + 0.16) / height, room, (tall - 0.16) / height))
        ax.set_ylim(-(n - 1) - 0.6, 0.55)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        axes.append(ax)
        top -= tall
    return figure, axes


def _interval(ax: Axes, cell: Mapping[str, Any], y: float, colour: str, filled: bool) -> None:
    """A value as a dot on its interval; an open dot where it is not to be relied on."""
    ax.plot([cell["low"], cell["high"]], [y, y], color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
    face = colour if filled else "none"
    ax.plot([cell["value"]], [y], "o", color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.4, zorder=3)


def _label(ax: Axes, metric: str, better: str, values: Sequence[float]) -> bool:
    """A metric's name at the left. Shares have one axis from 0 to 1; other scores an axis of their own. Gives which."""
    ax.set_ylabel(f"{metric} {'↑' if better == 'higher' else '↓'}", rotation=0, ha="right", va="center")
    share = min(values) >= 0 and max(values) <= 1
    if share:
        ax.set_xlim(-0.015, 1.015)
        ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    else:
        spread = max(values) - min(values) or abs(values[0]) or 1.0
        ax.set_xlim(min(values) - 0.06 * spread, max(values) + 0.06 * spread)
    ax.tick_params(labelsize=7.5)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    return share


def _colour(arms: Sequence[str], arm: str) -> str:
    """An arm's stand-in colour, which `_svg` turns into a variable of the page."""
    return f"#0a0b{arms.index(arm) % ARMS:02x}"


def _svg(figure: Figure, name: str, said: str) -> str:
    """The figure as an `svg` element without colours or fonts of its own. said: what it shows, for screen readers."""
    file = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the figure's white ground
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1, flags=re.DOTALL)
    classes = "figure" if figure.get_figwidth() == WIDTH else "figure half"
    text = re.sub(
        r"<svg",
        f'<svg role="img" aria-label="{said}" class="{classes}"',
        text,
        count=1,
    )
    text = re.sub(r"fill: #ffffff", "fill: none", text)  # the axes' white grounds
    text = re.sub(r"#0a0b0([0-7])", r"var(--arm-\1)", text)
    for stand_in, variable in ((INK, "--ink"), (FAINT, "--faint"), (RULE, "--rule")):
        text = text.replace(stand_in, f"var({variable})")
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: var(--sans)")
    # Identifiers are of the whole page, where several figures stand.
    return re.sub(r'((?:id=|href=|url\()"?#?)([A-Za-z])', rf"\g<1>{name}-\2", text)
