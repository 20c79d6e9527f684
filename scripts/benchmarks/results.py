"""What benchmarks yield: figures for a table, series for plots, both as JSON."""

import math
import operator
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

_COMPARISONS = {"≥": operator.ge, "≤": operator.le}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        part: the part of the benchmarks that it belongs to.
        name: what was measured.
        values: the numbers; all of them must meet the goal.
        unit: of the numbers; empty for ratios.
        digits: behind the decimal point.
        goal: e.g. ``≥ 0.97``, in the same unit; empty if there is none.
    """

    part: str
    name: str
    values: tuple[float, ...]
    unit: str = ""
    digits: int = 2
    goal: str = ""

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


@dataclass(frozen=True, slots=True)
class Series:
    """One curve of a plot.

    Attributes:
        plot: the name of the plot, e.g. ``throughput``.
        label: what the curve shows.
        x: its places, ascending.
        y: its values.
    """

    plot: str
    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(slots=True)
class Results:
    """Everything that one run has measured.

    Attributes:
        machine: the machine and the versions, in a line.
        figures: in the order of the table.
        series: in the order of the legends.
        notes: what a reader must know besides.
    """

    machine: str
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        part: str,
        name: str,
        *values: float,
        unit: str = "",
        digits: int = 2,
        goal: str = "",
    ) -> None:
        """Take a figure; see `Figure`."""
        self.figures.append(Figure(part, name, values, unit, digits, goal))

    def as_json(self) -> dict[str, Any]:
        """All of it; what could not be measured is null."""
        figures = [{**asdict(f), "measured": f.measured, "met": f.is_met} for f in self.figures]
        for figure in figures:
            figure["values"] = [None if math.isnan(v) else v for v in figure["values"]]
        series = [
            {**asdict(s), "y": [None if math.isnan(value) else value for value in s.y]}
            for s in self.series
        ]
        return {
            "machine": self.machine,
            "figures": figures,
            "series": series,
            "notes": self.notes,
        }


def table(figures: Iterable[Figure]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| what | measured | to reach |", "|---|---|---|"]
    for figure in figures:
        missed = " (missed)" if figure.is_met is False else ""
        goal = f"{figure.goal} {figure.unit}".strip() if figure.goal else ""
        lines.append(f"| {figure.name} | {figure.measured}{missed} | {goal} |")
    return "\n".join(lines)
