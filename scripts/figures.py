"""What benchmarks and campaigns yield: figures for a table, series for plots, both as JSON."""

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_COMPARISONS = {"≥": operator.ge, "≤": operator.le}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    part: str  #: of the benchmarks
    name: str  #: what was measured
    values: tuple[float, ...]  #: all of them must meet the goal
    unit: str = ""  #: empty for ratios
    digits: int = 2  #: behind the decimal point
    goal: str = ""  #: e.g. ``≥ 0.97``, in the same unit; empty if there is none

    @property
    def measured(self) -> str:
        """The numbers as text; a dash for one that could not be measured."""
        unit = f" {self.unit}" if self.unit else ""
        return " / ".join(
            "-" if math.isnan(value) else f"{value:,.{self.digits}f}{unit}" for value in self.values
        )

    @property
    def is_met(self) -> bool | None:
        """Whether the goal is reached, by the values before they are rounded; None without one."""
        if not self.goal:
            return None
        sign, number = self.goal.split()[:2]
        limit = float(number.replace(",", ""))
        return all(_COMPARISONS[sign](value, limit) for value in self.values)

    def as_json(self) -> dict[str, Any]:
        """What could not be measured is null."""
        values = [None if math.isnan(value) else value for value in self.values]
        return {**asdict(self), "values": values, "measured": self.measured, "met": self.is_met}


@dataclass(frozen=True, slots=True)
class Series:
    """One curve of a plot."""

    plot: str  #: its name, e.g. ``throughput``
    label: str
    x: tuple[float, ...]  #: ascending
    y: tuple[float, ...]


@dataclass(slots=True)
class Results:
    """Everything that one run has measured."""

    machine: str  #: and the versions, in a line
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  #: what a reader must know besides

    def add(
        self, part: str, name: str, *values: float, unit: str = "", digits: int = 2, goal: str = ""
    ) -> None:
        """Take a figure; see `Figure`."""
        self.figures.append(Figure(part, name, values, unit, digits, goal))

    def as_json(self) -> dict[str, Any]:
        """All of it; what could not be measured is null."""
        series = [
            {**asdict(s), "y": [None if math.isnan(value) else value for value in s.y]}
            for s in self.series
        ]
        figures = [figure.as_json() for figure in self.figures]
        return {
            "machine": self.machine, "figures": figures, "series": series, "notes": self.notes
        }  # fmt: skip


def percentile(values: Iterable[float], percent: float) -> float:
    """The value below which ``percent`` of the values lie, interpolated; NaN of none."""
    some = list(values)
    return float(np.percentile(some, percent)) if some else math.nan


def table(figures: Iterable[Figure]) -> str:
    lines = ["| what | measured | to reach |", "|---|---|---|"]
    for figure in figures:
        missed = " (missed)" if figure.is_met is False else ""
        goal = f"{figure.goal} {figure.unit}".strip() if figure.goal else ""
        lines.append(f"| {figure.name} | {figure.measured}{missed} | {goal} |")
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Axes:
    """How a plot is labelled."""

    title: str
    x: str
    y: str
    log_x: bool = False  #: the places double from one to the next
    marks: int = 0  #: at most so many, and ticks wherever they fall; 0 for one at each place


def draw(axes: Axes, curves: Sequence[Series], path: Path) -> Path:
    """Draw curves into a file, whose suffix says the format.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    # The same curves give the same file, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "ggml-fastapi", "svg.fonttype": "none"})
    from matplotlib.figure import Figure as Page

    page = Page(figsize=(6.4, 4.0), layout="constrained")
    plot = page.subplots()
    for number, curve in enumerate(curves):
        places = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if not math.isnan(y)]
        every = max(1, len(places) // axes.marks) if axes.marks else 1
        xs, ys = [x for x, _ in places], [y for _, y in places]
        marker = "osD^v"[number % 5]
        plot.plot(xs, ys, marker=marker, markevery=every, linewidth=1.8, label=curve.label)
    if axes.log_x:
        plot.set_xscale("log", base=2)
    if not axes.marks:
        ticks = sorted({x for curve in curves for x in curve.x})
        plot.set_xticks(ticks, [f"{x:g}" for x in ticks])
        plot.minorticks_off()
    plot.set(title=axes.title, xlabel=axes.x, ylabel=axes.y)
    plot.set_ylim(bottom=0)
    plot.grid(alpha=0.3)
    plot.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        plot.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path, dpi=144, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
