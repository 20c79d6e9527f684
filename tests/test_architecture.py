"""Who may import whom, who reads the environment, and how large a file may be.

Each rule is a function from a parsed source file to what is wrong with it. Each is also shown a
source that breaks it, so that none passes because it sees nothing.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from scripts.measure import Module, imports, longest_chain, modules, room_circles

ROOT = Path(__file__).parents[1]
ROOMS = ("gateway", "worker", "shared")
STDLIB = sys.stdlib_module_names
MAX_LINES = 300

# Which libraries a room may use at all.
LIBRARIES = {
    "shared": {"orjson"},
    "worker": {"orjson", "numpy"},
    "gateway": {
        "fastapi", "filelock", "huggingface_hub", "orjson", "prometheus_client", "pydantic",
        "pydantic_core", "starlette", "typing_extensions",
    },
}  # fmt: skip
# Libraries that belong to one file each.
ONE_FILE_LIBRARIES = {
    "worker/engines/library.py": {"ctransformers"},
    "worker/grammar/compiler.py": {"llguidance"},
    "worker/grammar/grammars.py": {"llguidance"},
    "worker/grammar/matcher.py": {"llguidance"},
    "worker/prompt/render.py": {"minijinja"},
    "worker/tokenizer/tokenizer.py": {"tokenizers"},
    "worker/tokenizer/file.py": {"tokenizers"},
    "worker/tokenizer/pre_tokenizers.py": {"tokenizers"},
    "worker/calibration.py": {"socket"},
    "worker/zygote.py": {"multiprocess", "socket"},
    "gateway/http/protocol.py": {"httptools", "uvicorn"},
    "gateway/http/requests.py": {"httptools", "uvicorn"},
    "gateway/server.py": {"uvicorn"},
    "gateway/observe/tracing.py": {"opentelemetry"},
    "gateway/__main__.py": {"uvloop"},
}
# Parts of the standard library that a room does without.
FORBIDDEN_STDLIB = {
    "shared": {"asyncio", "multiprocessing"},
    "worker": {"asyncio", "http", "multiprocessing", "socket"},
    "gateway": {"multiprocessing"},
}
# Which rooms a room may look into; the gateway's one look into `worker` is counted below.
OTHER_ROOMS = {
    "shared": {"shared"},
    "worker": {"worker", "shared"},
    "gateway": {"gateway", "shared"},
}
COMPOSITION_ROOT = "gateway/__main__.py"

# For files and folders within a room: all that they may import of our own code.
NARROWED = {
    "gateway/pool/": {"gateway.machine", "gateway.pool", "shared"},
    "gateway/pool/scheduler.py": {
        "gateway.pool.choice", "gateway.pool.estimates", "gateway.pool.job", "gateway.pool.prefix",
        "gateway.pool.prefix_cache", "shared.saved_prefix",
    },
    "gateway/pool/choice.py": {"gateway.pool.prefix", "gateway.pool.prefix_cache"},
    "gateway/pool/prefix_cache.py": {
        "gateway.pool.base", "gateway.pool.prefix", "shared.saved_prefix",
    },
    "gateway/pool/faults.py": {"gateway.pool.deaths", "gateway.pool.job", "shared"},
    "gateway/pool/estimates.py": {"shared.messages"},
    "gateway/pool/prefix.py": {"shared.saved_prefix"},
    "gateway/auth/": {
        "gateway.auth", "gateway.errors", "gateway.observe.record", "gateway.settings", "shared",
    },
    "gateway/ask.py": {"shared"},
    "gateway/dialects/": {
        "gateway.answer.pieces", "gateway.ask", "gateway.dialects", "gateway.errors", "shared",
    },
    "gateway/answer/": {
        "gateway.answer", "gateway.ask", "gateway.errors", "gateway.observe.record",
        "gateway.pool.base", "shared",
    },
    "gateway/answer/pieces.py": {"shared"},
    "gateway/routes.py": {
        "gateway.answer", "gateway.ask", "gateway.dialects", "gateway.errors",
        "gateway.observe.record", "gateway.bounds", "gateway.pool.base", "gateway.models",
        "gateway.sse", "shared",
    },
    "worker/loop.py": {
        "shared", "worker.batches", "worker.engines.base", "worker.grammar",
        "worker.prefix_memory", "worker.sequence", "worker.threads",
    },
    "worker/engines/": {
        "shared", "worker.engines", "worker.tokenizer.tokenizer", "worker.tokenizer.file",
        "worker.tokenizer.vocabulary",
    },
    "worker/build/": {"shared", "worker.build", "worker.engines"},
}  # fmt: skip
# Which libraries parts of a room may use, if not all of the room's.
NARROWED_LIBRARIES = {
    "gateway/dialects/": {"orjson", "pydantic", "pydantic_core", "typing_extensions"},
    "gateway/answer/": {"orjson"},
    "gateway/ask.py": set[str](),
}
PURE = (
    "gateway/pool/choice.py", "gateway/pool/estimates.py", "gateway/pool/prefix.py",
    "gateway/pool/prefix_cache.py", "gateway/pool/scheduler.py",
)  # fmt: skip
PURE_STDLIB = {"collections", "dataclasses", "itertools", "math", "typing"}
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__"}

ENVIRONMENT_READERS = {
    "gateway/__main__.py",  # hands it to `Settings.load`, which reads nothing by itself
    "gateway/calibration.py",  # hands its process the same
    "gateway/pool/zygote.py",  # hands the zygote its own; PYTHONPATH is the user's
    "gateway/pool/zygote_process.py",  # the same
    "worker/zygote.py",  # gets it there
    "worker/loading.py",  # sets what libraries read when they are imported
    "worker/build/command.py",  # CC, CXX and PATH are the user's, for every program that builds
    "gateway/demo_model.py",  # XDG_CACHE_HOME is the user's, for every program; no setting of ours
}
HEAVY = {
    "ctransformers", "fastapi", "gguf", "huggingface_hub", "minijinja", "multiprocess",
    "numpy", "opentelemetry", "orjson", "prometheus_client", "pydantic", "safetensors", "starlette",
    "tokenizers", "tqdm", "uvicorn", "uvloop",
}  # fmt: skip

# Modules in the longest chain of imports within a package.
MAX_CHAIN = 10


@dataclass(frozen=True)
class Source:
    """A parsed file; ``path`` is relative to the project, with slashes."""

    path: str
    text: str

    @property
    def room(self) -> str:
        return self.path.split("/")[0]

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    def imports(self) -> Iterator[str]:
        """What is imported anywhere in the file, e.g. ``worker.loop.Loop``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                yield from (f"{module}.{alias.name}" for alias in node.names)


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in allowed)


def room_imports(source: Source) -> Iterator[str]:
    """A room imports only its own libraries, and only the rooms below it."""
    libraries = LIBRARIES[source.room] | ONE_FILE_LIBRARIES.get(source.path, set())
    rooms = set(OTHER_ROOMS[source.room])
    if source.path == COMPOSITION_ROOT:
        rooms.add("worker")
    for name in source.imports():
        top = name.split(".")[0]
        is_standard = top in STDLIB and top not in FORBIDDEN_STDLIB[source.room]
        if not (is_standard or top in libraries or top in rooms):
            yield f"imports {name}"


def narrowed_imports(source: Source) -> Iterator[str]:
    """Parts of a room import only some of our own code."""
    for part, allowed in NARROWED.items():
        if source.path == part or (part.endswith("/") and source.path.startswith(part)):
            for name in source.imports():
                if name.split(".")[0] in ROOMS and not is_within(name, allowed):
                    yield f"imports {name}"


def narrowed_libraries(source: Source) -> Iterator[str]:
    """A dialect is a function of bodies and pieces: no web framework."""
    for part, allowed in NARROWED_LIBRARIES.items():
        if source.path == part or (part.endswith("/") and source.path.startswith(part)):
            for name in source.imports():
                top = name.split(".")[0]
                if top not in ROOMS and top not in STDLIB and top not in allowed:
                    yield f"imports {name}"


def purity(source: Source) -> Iterator[str]:
    """The schedule is data only: no clock, no I/O, no asyncio."""
    if source.path not in PURE:
        return
    for name in source.imports():
        if name.split(".")[0] not in ROOMS and not is_within(name, PURE_STDLIB):
            yield f"imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
            yield f"uses {node.id}"


def app_imports(source: Source) -> Iterator[str]:
    """Only the server knows the application."""
    for name in source.imports():
        if is_within(name, {"gateway.app"}) and source.path != "gateway/server.py":
            yield f"imports {name}"


def composition(source: Source) -> Iterator[str]:
    """Only the composition root names the worker; nobody imports the composition root."""
    for name in source.imports():
        if source.room == "gateway" and is_within(name, {"worker"}):
            if source.path != COMPOSITION_ROOT:
                yield f"imports {name}"
        elif is_within(name, {"gateway.__main__"}):
            yield f"imports {name}"


def environment(source: Source) -> Iterator[str]:
    """The environment is read where the settings are, and in a few places that must."""
    if source.path in ENVIRONMENT_READERS:
        return
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            yield f"line {node.lineno} uses {node.attr}"
    for name in source.imports():
        if name in {f"os.{attribute}" for attribute in names}:
            yield f"imports {name}"


def light_at_module_level(source: Source) -> Iterator[str]:
    """What every worker imports, too, imports nothing heavy before it is called."""
    if source.path not in (COMPOSITION_ROOT, "worker/main.py"):
        return
    module_level = ast.Module(
        [node for node in source.tree.body if isinstance(node, ast.Import | ast.ImportFrom)], []
    )
    for name in Source(source.path, ast.unparse(module_level)).imports():
        if name.split(".")[0] not in (*STDLIB, "shared"):
            yield f"imports {name} at module level"


def docstring(source: Source) -> Iterator[str]:
    """Every module says what it is for."""
    if not ast.get_docstring(source.tree):
        yield "has no docstring"


def size(source: Source) -> Iterator[str]:
    """A file holds one idea."""
    n_lines = len(source.text.splitlines())
    if n_lines > MAX_LINES:
        yield f"has {n_lines} lines, more than {MAX_LINES}"


def naming(source: Source) -> Iterator[str]:
    """Names say what a thing is."""
    vague = ("util", "utils", "manager", "managers", "helper", "helpers", "common", "misc")
    if Path(source.path).stem in vague:
        yield "has a name that says nothing"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Proxy", "Manager", "Helper")):
            yield f"has a class {node.name}"


Rule = Callable[[Source], Iterator[str]]
RULES: list[Rule] = [
    room_imports,
    narrowed_imports,
    narrowed_libraries,
    purity,
    app_imports,
    composition,
    environment,
    light_at_module_level,
    docstring,
    size,
    naming,
]


def sources() -> list[Source]:
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")) for path in paths]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule: Rule) -> None:
    broken = [f"{source.path} {wrong}" for source in sources() for wrong in rule(source)]
    assert not broken, "\n".join([f"{rule.__doc__}", *broken])


BAD: list[tuple[Rule, str, str]] = [
    (room_imports, "shared/x.py", "import numpy"),
    (room_imports, "shared/x.py", "def f():\n    import gateway.errors"),
    (room_imports, "shared/x.py", "from .errors import ErrorCode"),
    (room_imports, "shared/x.py", "import asyncio"),
    (room_imports, "worker/x.py", "import asyncio.events"),
    (room_imports, "worker/x.py", "import ctransformers"),
    (room_imports, "worker/engines/echo.py", "from ctransformers.llm import LLM"),
    (room_imports, "gateway/x.py", "if True:\n    from ctransformers import LLM"),
    (room_imports, "gateway/x.py", "import worker.main"),
    (narrowed_imports, "gateway/pool/local.py", "from gateway.errors import ApiError"),
    (narrowed_imports, "gateway/pool/scheduler.py", "from gateway.pool.local import LocalPool"),
    (narrowed_imports, "gateway/pool/prefix.py", "import shared.messages"),
    (narrowed_imports, "gateway/routes.py", "from gateway.pool import local"),
    (narrowed_imports, "gateway/dialects/chat.py", "from gateway.pool.base import WorkerPool"),
    (narrowed_imports, "gateway/answer/run.py", "from gateway.dialects import Dialect"),
    (narrowed_libraries, "gateway/dialects/chat.py", "from fastapi import Request"),
    (narrowed_libraries, "gateway/answer/run.py", "import starlette.types"),
    (narrowed_imports, "worker/loop.py", "from worker.engines.echo import EchoEngine"),
    (narrowed_imports, "worker/engines/new.py", "from worker import loop"),
    (purity, "gateway/pool/scheduler.py", "import time"),
    (purity, "gateway/pool/prefix.py", "def f():\n    import io"),
    (purity, "gateway/pool/prefix.py", "open('x')"),
    (app_imports, "gateway/pool/local.py", "from gateway.app import create_app"),
    (composition, "gateway/server.py", "def f():\n    import worker"),
    (composition, "gateway/server.py", "from gateway.__main__ import main"),
    (environment, "worker/loop.py", "import os as o\no.environ.get('X')"),
    (environment, "shared/logging.py", "from os import environ"),
    (light_at_module_level, "gateway/__main__.py", "import fastapi"),
    (light_at_module_level, "worker/main.py", "import numpy"),
    (docstring, "shared/x.py", "x = 1\n'no docstring'"),
    (size, "shared/x.py", "x = 1\n" * 301),
    (naming, "gateway/pool/manager.py", ""),
    (naming, "gateway/x.py", "def f():\n    class PoolManager: pass"),
]


@pytest.mark.parametrize(("rule", "path", "text"), BAD)
def test_rule_sees_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


def test_every_rule_is_tested() -> None:
    assert {rule for rule, _, _ in BAD} == set(RULES)


def test_the_rules_speak_of_files_that_exist() -> None:
    paths = {source.path for source in sources()}
    for path in {*ONE_FILE_LIBRARIES, *PURE, *ENVIRONMENT_READERS, COMPOSITION_ROOT}:
        assert path in paths
    for part in NARROWED:
        assert any(path.startswith(part) for path in paths), part
    assert {source.room for source in sources()} == set(ROOMS)


def test_permissions_are_used() -> None:
    """What is allowed to one file only would else outlive its need."""
    by_path = {source.path: source for source in sources()}
    for path, libraries in ONE_FILE_LIBRARIES.items():
        assert libraries <= {name.split(".")[0] for name in by_path[path].imports()}, path
    for path in ENVIRONMENT_READERS:
        assert "os.environ" in by_path[path].text, path


def chains(package: str, some: list[Module]) -> Iterator[str]:
    """A package is at most so many floors deep."""
    chain = longest_chain(imports(some))
    if len(chain) > MAX_CHAIN:
        yield " -> ".join(chain)


def room_order(package: str, some: list[Module]) -> Iterator[str]:
    """Folders, and files beside them, do not import one another in a circle."""
    yield from (f"{sorted(group)} of {package}" for group in room_circles(some))


PackageRule = Callable[[str, list[Module]], Iterator[str]]


@pytest.mark.parametrize("rule", (chains, room_order))
@pytest.mark.parametrize("package", ROOMS)
def test_package(package: str, rule: PackageRule) -> None:
    assert list(rule(package, modules(ROOT, package))) == [], rule.__doc__


def package_of(**texts: str) -> list[Module]:
    """Modules of the package ``x``; two underscores stand for a dot."""
    paths = {name: name.replace("__", "/") for name in texts}
    return [Module(f"x.{paths[name].replace('/', '.')}", f"x/{paths[name]}.py", text)
            for name, text in texts.items()]  # fmt: skip


def chain_of(n: int) -> list[Module]:
    return package_of(**{f"m{i}": f"def f():\n    from x.m{i + 1} import y" for i in range(n)})


BAD_PACKAGES: list[tuple[PackageRule, list[Module]]] = [
    (chains, chain_of(MAX_CHAIN + 1)),
    (room_order, package_of(a__b="import x.c", c="from x.a import b")),
    (room_order, package_of(a__b="from x.c.d import e", c__d="from x.f import g", f="import x.a.h",
                            a__h="")),
    (room_order, package_of(a="from . import b", b="def f():\n    from .a import g")),
]  # fmt: skip
GOOD_PACKAGES: list[tuple[PackageRule, list[Module]]] = [
    (chains, chain_of(MAX_CHAIN)),
    # A circle counts once in a chain; that it is one, the other rule says.
    (chains, [*chain_of(MAX_CHAIN - 1), *package_of(z="import x.m0, x.zz", zz="import x.z")]),
    (room_order, package_of(a__b="from x.a import c", a__c="from x import a, d", d="import os")),
]


@pytest.mark.parametrize(("rule", "some"), BAD_PACKAGES)
def test_package_rule_sees_what_breaks_it(rule: PackageRule, some: list[Module]) -> None:
    assert list(rule("x", some))


@pytest.mark.parametrize(("rule", "some"), GOOD_PACKAGES)
def test_package_rule_lets_pass_what_is_right(rule: PackageRule, some: list[Module]) -> None:
    assert list(rule("x", some)) == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_ignores_no_source() -> None:
    paths = "\n".join(str(path.relative_to(ROOT)) for room in (*ROOMS, "scripts", "tests")
                      for path in (ROOT / room).rglob("*.py"))  # fmt: skip
    done = subprocess.run(
        ["git", "check-ignore", "--stdin"], input=paths, capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stdout) == (1, ""), "1 is for: nothing is ignored"


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after ``statement``."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return set(done.stdout.split())


ENGINES = {"numpy", "ctransformers", "tokenizers"}


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("gateway.__main__", HEAVY),
        ("worker.main", HEAVY - {"orjson"}),
        ("gateway.server, gateway.plan, gateway.settings", {*ENGINES, "worker"}),
        ("worker.loop, worker.sampling.sampler, worker.zygote",
         {"ctransformers", "tokenizers", "gateway", "fastapi", "pydantic"}),
    ],
)  # fmt: skip
def test_what_is_light_loads_nothing_heavy(modules: str, unwanted: set[str]) -> None:
    assert loaded_by(f"import {modules}") & unwanted == set()


def test_what_is_heavy_is_seen() -> None:
    assert "fastapi" in loaded_by("import gateway.app")
