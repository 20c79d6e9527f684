"""Draws the curves of a run, one file for each plot."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.results import Series


@dataclass(frozen=True, slots=True)
class Axes:
    """How a plot is labelled.

    Attributes:
        title: above it.
        x: its horizontal axis.
        y: its vertical axis.
        log_x: whether the places double from one to the next.
    """

    title: str
    x: str
    y: str
    log_x: bool = False


PLOTS = {
    "throughput": Axes("Throughput", "streams at once", "output tokens/s", log_x=True),
    "ttft": Axes("Time to first token", "prompt, words (about tokens)", "seconds"),
    "memory": Axes("Memory of all processes", "workers", "MB (Pss)"),
    "cpu": Axes("Gateway CPU time", "streams at once", "µs per token", log_x=True),
    "compare-throughput": Axes(
        "Throughput, in turn in one run", "streams at once", "output tokens/s", log_x=True
    ),
    "compare-ttft": Axes(
        "Time to first token, in turn in one run", "prompt, words (about tokens)", "seconds"
    ),
}
"""The plots there can be; each is drawn if there is a curve for it."""


def draw(series: Sequence[Series], folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Write a file for each plot that has a curve, and each suffix.

    Args:
        series: the curves.
        folder: where the files go; it is made if need be.
        suffixes: of the files, which say the format: ``svg``, ``png``.

    Returns:
        The files.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: they cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same curves give the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "ggml-fastapi", "svg.fonttype": "none"})
    from matplotlib.figure import Figure as Page

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, axes in PLOTS.items():
        curves = [curve for curve in series if curve.plot == name]
        if not curves:
            continue
        page = Page(figsize=(6.4, 4.0), layout="constrained")
        plot = page.subplots()
        for number, curve in enumerate(curves):
            places = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if not math.isnan(y)]
            xs, ys = [x for x, _ in places], [y for _, y in places]
            marker = "osD^v"[number % 5]
            plot.plot(xs, ys, marker=marker, linewidth=1.8, label=curve.label)
        ticks = sorted({x for curve in curves for x in curve.x})
        if axes.log_x:
            plot.set_xscale("log", base=2)
        plot.set_xticks(ticks, [f"{x:g}" for x in ticks])
        plot.minorticks_off()
        plot.set(title=axes.title, xlabel=axes.x, ylabel=axes.y)
        plot.set_ylim(bottom=0)
        plot.grid(alpha=0.3)
        plot.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            plot.legend(frameon=False)
        for suffix in suffixes:
            path = folder / f"{name}.{suffix}"
            page.savefig(path, dpi=144, metadata={"Date": None} if suffix == "svg" else None)
            written.append(path)
    return written
