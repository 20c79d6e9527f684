"""Measures the size and the shape of a tree: ``python scripts/measure.py [DIR] [PACKAGE ...]``.

Needs nothing but the standard library, so that it can measure other projects as well.
"""

import argparse
import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
Graph = Mapping[str, set[str]]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed file; ``name`` is dotted, without ``__init__``."""

    name: str
    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def functions(self) -> list[Function]:
        return [node for node in ast.walk(self.tree) if isinstance(node, Function)]

    @property
    def room(self) -> str:
        """The folder; of a file directly in the package, the file."""
        folder = Path(self.path).parent
        return folder.as_posix() if len(folder.parts) > 1 else self.path


def modules(root: Path, package: str) -> list[Module]:
    found = []
    for path in sorted((root / package).rglob("*.py")):
        relative = path.relative_to(root)
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        found.append(Module(name, relative.as_posix(), path.read_text("utf-8")))
    return found


def imports(some: Iterable[Module]) -> dict[str, set[str]]:
    """Which module imports which others of these, anywhere in the file.

    Imports inside functions count: a circle that waits for a call is still a circle.
    """
    by_name = {module.name: module for module in some}
    graph = {}
    for name, module in by_name.items():
        package = name if module.path.endswith("__init__.py") else name.rpartition(".")[0]
        wanted = (each for node in ast.walk(module.tree) for each in _candidates(node, package))
        targets = (next((each for each in names if each in by_name), name) for names in wanted)
        graph[name] = set(targets) - {name}
    return graph


def _candidates(node: ast.AST, package: str) -> Iterator[tuple[str, ...]]:
    """For each imported name the modules that it may be or come from, the likelier first."""
    if isinstance(node, ast.Import):
        yield from ((alias.name,) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        yield from ((f"{base}.{alias.name}", base) for alias in node.names)


def circles(graph: Graph) -> list[set[str]]:
    """All nodes in groups whose members reach one another; most groups have one member."""
    reached = {name: _reach(graph, name) for name in graph}
    groups: list[set[str]] = []
    for name in graph:
        if not any(name in group for group in groups):
            groups.append({name} | {other for other in reached[name] if name in reached[other]})
    return groups


def _reach(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = graph[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def longest_chain(graph: Graph) -> list[str]:
    """The longest chain of imports, from the top down; modules in a circle count as one."""
    group = {name: min(circle) for circle in circles(graph) for name in circle}
    below: dict[str, set[str]] = {first: set() for first in group.values()}
    for name, targets in graph.items():
        below[group[name]] |= {group[target] for target in targets} - {group[name]}
    best: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in best:
            best[name] = [name, *max(map(chain, sorted(below[name])), key=len, default=[])]
        return best[name]

    return max(map(chain, sorted(below)), key=len, default=[])


def room_circles(some: list[Module]) -> list[set[str]]:
    """Rooms of a package that import one another, directly or by way of others."""
    room = {module.name: module.room for module in some}
    graph: dict[str, set[str]] = {name: set() for name in room.values()}
    for name, targets in imports(some).items():
        graph[room[name]] |= {room[target] for target in targets} - {room[name]}
    return [group for group in circles(graph) if len(group) > 1]


def body_lines(function: Function) -> int:
    """Without the docstring."""
    body = function.body[1 if ast.get_docstring(function) is not None else 0 :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def _is_typed(function: Function) -> bool:
    spec = function.args
    arguments = [*spec.posonlyargs, *spec.args, *spec.kwonlyargs, spec.vararg, spec.kwarg]
    named = [each for each in arguments if each and each.arg not in ("self", "cls")]
    return function.returns is not None and all(each.annotation for each in named)


def _count(module: Module) -> tuple[int, int, int, int]:
    """Lines in all, and those of docstrings, of comments alone, and blank ones."""
    lines = module.text.splitlines()
    texts = (each for each in ast.walk(module.tree) if isinstance(each, ast.Expr))
    doc = {
        number
        for text in texts
        if isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
        for number in range(text.lineno, (text.end_lineno or 0) + 1)
    }
    comment = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }
    blank = {number for number, line in enumerate(lines, 1) if not line.strip()}
    return len(lines), len(doc - blank), len(comment), len(blank)


def row(name: str, some: list[Module]) -> dict[str, str]:
    """The figures of some modules, as text, by column."""
    functions = [each for module in some for each in module.functions]
    classes = (each for m in some for each in ast.walk(m.tree) if isinstance(each, ast.ClassDef))
    public = [each for each in (*functions, *classes) if not each.name.startswith("_")]
    counts = [_count(module) for module in some]
    lines, docs, comments, blank = map(sum, zip(*counts, strict=True))
    code = lines - docs - comments - blank
    lengths = sorted(map(body_lines, functions)) or [0]
    longest = max(functions, key=body_lines).name if functions else "-"
    graph = imports(some)
    n_documented = sum(ast.get_docstring(each) is not None for each in public)
    return {
        "": name,
        "files": str(len(some)),
        "lines": f"{lines:,}",
        "code": f"{code:,}",
        "lines/file": f"{lines / len(some):.0f}",
        "largest": str(max(count[0] for count in counts)),
        "fn median / p90 / max": f"{median(lengths):g} / {lengths[9 * len(lengths) // 10]}"
        f" / {lengths[-1]} `{longest}`",
        "typed": f"{100 * sum(map(_is_typed, functions)) / max(1, len(functions)):.0f} %",
        "doc/code": f"{100 * docs / max(1, code):.0f}",
        "com/code": f"{100 * comments / max(1, code):.0f}",
        "public doc": f"{100 * n_documented / max(1, len(public)):.0f} %",
        "imports/module": f"{sum(map(len, graph.values())) / len(some):.1f}",
        "chain": str(len(longest_chain(graph))),
        "circles": str(len(room_circles(some))),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the size and the shape of a tree.")
    add = parser.add_argument
    add("root", type=Path, nargs="?", default=ROOT, metavar="DIR", help="default: this project")
    add("packages", nargs="*", metavar="PACKAGE", help="default: gateway worker shared scripts")
    add("--chains", action="store_true", help="also print the longest chains and the circles")
    options = parser.parse_args()
    names = options.packages or ["gateway", "worker", "shared", "scripts"]
    found = {name: some for name in names if (some := modules(options.root, name))}
    product = [module for name, some in found.items() if name != "scripts" for module in some]
    rows = [row(name, some) for name, some in {**found, "without scripts": product}.items() if some]
    print("|", " | ".join(rows[0]), "|\n|" + "---|" * len(rows[0]))
    for each in rows:
        print("|", " | ".join(each.values()), "|")
    for name, some in found.items() if options.chains else ():
        print(f"\n{name}:", " -> ".join(longest_chain(imports(some))))
        print(*(f"circle: {sorted(group)}" for group in room_circles(some)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
