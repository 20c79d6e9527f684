"""Finds the C++ compiler, and finds or fetches cmake and ninja."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shared.errors import EngineError
from worker.build.process import run
from worker.build.source import NO_PIP

_LEAST_CMAKE = (3, 18)
_REQUIREMENTS = ("cmake>=3.18,<5", "ninja>=1.11.1.3")
_COMPILERS = {
    "CC": ("C", ("cc", "gcc", "clang")),
    "CXX": ("C++", ("c++", "g++", "clang++")),
}


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What compiles.

    Attributes:
        compiler: first line of what the C++ compiler says of itself.
        cmake: path of the program.
        ninja: path of the program.
        environment: variables for both, among them the compilers.
    """

    compiler: str
    cmake: str
    ninja: str
    environment: Mapping[str, str]


def find_toolchain(scratch: Path) -> Toolchain:
    """Find what is needed; fetch cmake and ninja with pip where they are missing or too old.

    Args:
        scratch: where fetched programs are put.

    Raises:
        EngineError: there is no compiler, or cmake and ninja cannot be fetched.
    """
    environment = dict(os.environ)
    for variable in _COMPILERS:
        environment[variable] = _compiler(variable)
    compiler = _first_line([*shlex.split(environment["CXX"]), "--version"])
    # Ours alone are to decide, so that what is in the cache can be told by its name.
    for variable in ("CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS"):
        environment.pop(variable, None)
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None or _version(cmake) < _LEAST_CMAKE:
        target = scratch / "tools"
        _fetch(target)
        programs = str(target / "bin")
        environment["PATH"] = os.pathsep.join((programs, environment.get("PATH", os.defpath)))
        # Some of their programs are scripts that import the package beside them.
        environment["PYTHONPATH"] = str(target)
        cmake, ninja = (shutil.which(name, path=programs) for name in ("cmake", "ninja"))
        if cmake is None or ninja is None:
            raise EngineError(
                "pip has installed cmake and ninja without programs; put both on PATH"
            )
    return Toolchain(compiler, cmake, ninja, environment)


def _compiler(variable: str) -> str:
    language, usual = _COMPILERS[variable]
    given = os.environ.get(variable, "").strip()
    if given:
        words = shlex.split(given)
        if words and shutil.which(words[0]):
            return given
        raise EngineError(f"{variable}={given}: there is no such {language} compiler")
    for name in usual:
        if shutil.which(name):
            return name
    raise EngineError(
        f"no {language} compiler was found ({variable}, {', '.join(usual)}): install one (on Debian"
        " and Ubuntu: apt install g++; on Fedora: dnf install gcc-c++), or name it with"
        f" {variable}; until then ctransformers' own library serves, where it has one"
    )


def _version(cmake: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", _first_line([cmake, "--version"]))
    return tuple(map(int, found.groups())) if found else (0, 0)


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except OSError as error:
        raise EngineError(f"{command[0]} cannot be run: {error.strerror}") from error
    return done.stdout.partition("\n")[0].strip()


def _fetch(target: Path) -> None:
    if find_spec("pip") is None:
        raise EngineError(f"{NO_PIP}, or put cmake (3.18 or newer) and ninja on PATH")
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--only-binary"]
    run(
        "installing cmake and ninja with pip",
        [
            *(sys.executable, "-m", "pip", "install", *options, ":all:"),
            *("--target", str(target), *_REQUIREMENTS),
        ],
        "check the network and pip's settings, or put cmake (3.18 or newer) and ninja on PATH;"
        " pip says:",
    )
