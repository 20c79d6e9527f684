"""Writes the tables of the documentation, by ``.venv/bin/python -m scripts.doc_tables``.

They are made from the code, and so cannot say otherwise.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from gateway.settings import Settings, default_text
from scripts import parameter_table

ROOT = Path(__file__).resolve().parents[1]


def settings_table() -> str:
    """Each group of settings under its heading."""
    lines = []
    for field in dataclasses.fields(Settings):
        if field.metadata["group"]:
            lines += ["", f"**{field.metadata['group']}**", "", "| variable | default | |"]
            lines.append("|---|---|---|")
        text = field.metadata["help"].replace("|", r"\|")
        lines.append(f"| `{field.name.upper()}` | {default_text(field)} | {text} |")
    return "\n".join([*lines[1:], ""])


TABLES: dict[str, Callable[[], str]] = {
    "parameters": parameter_table.table,
    "settings": settings_table,
}


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def updated(text: str) -> str:
    """A document with the tables that are right now between their marks."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        before, mark, rest = text.partition(begin)
        if mark:
            text = before + begin + table() + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    for path in documents():
        path.write_text(updated(path.read_text("utf-8")), "utf-8")
