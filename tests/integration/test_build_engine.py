"""``ggml-fastapi build-engine``: a real build, a server on it, and what can go wrong."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.model.library import Cpu, engine_version, library_path, record_path
from tests.models.reference import FOLDER, references
from tests.serving import MAIN, ROOT, START_S, environment, run_main, served

COMMAND = [*MAIN, "build-engine"]
LONGEST_S = 400.0
"""How long a build may take, on a machine that does much else."""
HAS_COMPILER = bool(shutil.which("cc") and shutil.which("c++"))
NEEDS_COMPILER = pytest.mark.skipif(not HAS_COMPILER, reason="there is no C++ compiler")
MODEL = FOLDER / "starcoder-mqa.bin"


def build_engine(*options: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a cache of its own."""
    return subprocess.run(
        [*COMMAND, *options],
        cwd=ROOT,
        env={**environment(XDG_CACHE_HOME=str(cache)), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )


def left_in(cache: Path) -> list[Path]:
    """Everything in the cache of libraries, but for the lock."""
    folder = cache / "ggml-fastapi/engine"
    return [path for path in folder.glob("*") if path.name != "lock"]


def refusal(*options: str, cache: Path, status: int = 1, **variables: str) -> str:
    """What a build says that fails, and leaves nothing in the cache."""
    ended = build_engine(*options, cache=cache, **variables)
    assert ended.returncode == status, ended
    assert "Traceback" not in ended.stderr and left_in(cache) == []
    return ended.stderr[ended.stderr.index("ggml-fastapi build-engine: ") :]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a native build; the only one that these tests make.

    The kernels are in C, and built as for a user. What puts them together is in C++: it takes 19 s
    to compile instead of 47 s if it is not optimised.
    """
    cache = tmp_path_factory.mktemp("cache")
    compiler = tmp_path_factory.mktemp("compiler") / "c++"
    compiler.write_text('#!/bin/bash\nexec c++ "${@/#-O3/-O0}"\n')
    compiler.chmod(0o755)
    ended = build_engine(cache=cache, CXX=str(compiler))
    assert ended.returncode == 0, ended.stderr
    assert "agree to rounding" in ended.stderr
    return cache


def library_in(cache: Path) -> Path:
    return library_path(cache / "ggml-fastapi", engine_version(), Cpu.here())


def answer(**settings: Any) -> tuple[str, str, str]:
    """The engine in the summary, greedy text, and standard error of a server with a small model."""
    reference = next(one for one in references().values() if MODEL in one.paths)
    body = {
        "model": MODEL.stem,
        "prompt": reference.prompt,
        "max_tokens": len(reference.greedy_ids),
        "temperature": 0,
    }
    with served("--workers", "1", MODEL_NAME=str(MODEL), **settings) as server:
        text = server.http.post("/v1/completions", json=body).json()["choices"][0]["text"]
        engine = server.wait_for_output(r"\n  engine +(.+)\n")[1]
        server.stop()
        return engine, text, server.stderr


@pytest.fixture(scope="module")
def wanted_text() -> str:
    """What that model says."""
    return next(one for one in references().values() if MODEL in one.paths).greedy_text


@NEEDS_COMPILER
def test_a_build_is_kept_with_its_record(built: Path) -> None:
    library = library_in(built)
    assert sorted(left_in(built)) == sorted([library, record_path(library)])
    record = json.loads(record_path(library).read_bytes())
    assert record["sha256"] == hashlib.sha256(library.read_bytes()).hexdigest()
    assert record["cpu"] == Cpu.here().name
    assert record["compiler"]
    assert record["difference"] is None or record["difference"] < 0.06


@NEEDS_COMPILER
def test_a_build_serves(built: Path, wanted_text: str) -> None:
    engine, text, said = answer(XDG_CACHE_HOME=str(built))
    assert engine.startswith(f"native build of ctransformers {engine_version()}, ")
    assert text == wanted_text
    assert "native build" not in said


@NEEDS_COMPILER
def test_a_damaged_build_is_left_aside(built: Path, tmp_path: Path, wanted_text: str) -> None:
    cache = shutil.copytree(built, tmp_path / "cache")
    library = library_in(cache)
    content = bytearray(library.read_bytes())
    content[len(content) // 2] ^= 1
    library.write_bytes(content)
    engine, text, said = answer(XDG_CACHE_HOME=str(cache))
    assert engine.startswith("ctransformers ")
    assert text == wanted_text
    assert f"{library} does not match its record" in said


@NEEDS_COMPILER
def test_ct_lib_goes_before_it(built: Path, tmp_path: Path, wanted_text: str) -> None:
    mine = shutil.copy(library_in(built), tmp_path / "mine.so")
    engine, text, _ = answer(XDG_CACHE_HOME=str(built), CT_LIB=str(mine))
    assert (engine, text) == (str(mine), wanted_text)


@NEEDS_COMPILER
def test_it_is_not_built_twice(built: Path) -> None:
    before = library_in(built).stat()
    ended = build_engine(cache=built)
    assert ended.returncode == 0 and "--force" in ended.stderr
    assert str(library_in(built)) in ended.stderr
    assert library_in(built).stat() == before


@NEEDS_COMPILER
def test_check_says_what_would_serve(built: Path, tmp_path: Path) -> None:
    ended = build_engine("--check", cache=built)
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1] == str(library_in(built))
    ended = build_engine("--check", cache=tmp_path)
    assert ended.stdout.startswith(f"ctransformers {engine_version()}, ")


def test_no_compiler(tmp_path: Path) -> None:
    line = refusal(cache=tmp_path, PATH=str(tmp_path), CC="", CXX="")
    assert "no C compiler was found (CC, cc, gcc, clang): install one" in line
    assert "ctransformers' own library serves" in line
    line = refusal(cache=tmp_path, CC=sys.executable, CXX="no-such-c++ -O")
    assert "CXX=no-such-c++ -O: there is no such C++ compiler" in line


@NEEDS_COMPILER
def test_a_package_index_that_has_it_not(tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    line = refusal(
        cache=tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "index"), PIP_INDEX_URL=""
    )
    assert "building ctransformers with pip failed" in line and "pip's settings" in line
    assert "No matching distribution found for ctransformers" in line


@NEEDS_COMPILER
def test_what_the_compiler_says_is_shown(tmp_path: Path) -> None:
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'error: this cannot compile' >&2\nexit 1\n")
    broken.chmod(0o755)
    said = refusal(cache=tmp_path / "cache", CXX=str(broken))
    assert "pip failed (exit status 1)" in said and "CC and CXX" in said
    assert "error: this cannot compile" in said


@NEEDS_COMPILER
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        COMMAND,
        cwd=ROOT,
        env=environment(XDG_CACHE_HOME=str(tmp_path)),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("Compiling"):
                break
        process.send_signal(number)
        _, rest = process.communicate(timeout=START_S)
    assert process.returncode == 1
    assert rest == (
        "ggml-fastapi build-engine: interrupted; no library has been put into the cache\n"
    )
    assert left_in(tmp_path) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "ggml-fastapi").write_text("a file")
    ended = build_engine(cache=tmp_path)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ggml-fastapi build-engine: ") and str(tmp_path) in line


def test_usage(tmp_path: Path) -> None:
    for options in (["--chek"], ["--source", "x"], ["extra"]):
        ended = build_engine(*options, cache=tmp_path)
        assert ended.returncode == 2 and ended.stderr.startswith("usage: ")
    assert os.listdir(tmp_path) == []


def test_a_ct_lib_that_is_none() -> None:
    ended = run_main(MODEL_NAME=str(MODEL), CT_LIB=__file__)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"ggml-fastapi: CT_LIB={__file__}: ") and "not a library" in line
