"""Compiles the library from its source."""

import platform
from pathlib import Path

from shared.errors import EngineError
from worker.build.process import run
from worker.build.toolchain import Toolchain

_TARGET_OPTIONS = {"x86_64": "-march=native", "aarch64": "-mcpu=native"}
_OPTIONS = (
    # The inner loops are dot products of some ten blocks, whose overhead was a fifth of the time.
    "-funroll-loops",
    # Else products are rounded in the vectorised part of a loop and not in what is left over, and
    # so a token's logits depend on where the chunk that it is evaluated in ends.
    "-ffp-contract=off",
)


def compiler_options() -> str:
    """What the compiler is told beside CMake's own options for a release (``-O3``)."""
    return " ".join(filter(None, (_TARGET_OPTIONS.get(platform.machine()), *_OPTIONS)))


def compiled(source: Path, build: Path, toolchain: Toolchain) -> Path:
    """Compile and return the library's path.

    Args:
        source: folder of the unpacked source.
        build: a folder that is made for everything that arises.
        toolchain: what compiles.

    Raises:
        EngineError: it does not compile.
    """
    options = compiler_options()
    run(
        "preparing the compilation with cmake",
        [
            *(toolchain.cmake, "-G", "Ninja", "-S", str(source), "-B", str(build)),
            f"-DCMAKE_MAKE_PROGRAM={toolchain.ninja}",
            # No instruction sets of the source's own choice: ours tell.
            *("-DCMAKE_BUILD_TYPE=Release", "-DCT_INSTRUCTIONS=basic"),
            *(f"-DCMAKE_C_FLAGS={options}", f"-DCMAKE_CXX_FLAGS={options}"),
        ],
        f"check the compiler ({toolchain.compiler}), or name another with CC and CXX; cmake says:",
        environment=toolchain.environment,
    )
    run(
        "compiling",
        [toolchain.ninja, "-C", str(build)],
        f"another compiler than {toolchain.compiler} may do better, name it with CC and CXX; the"
        " last lines of its output are:",
        environment=toolchain.environment,
    )
    libraries = list((build / "lib").glob("libctransformers.*"))
    if len(libraries) != 1:
        raise EngineError("the compilation ended well, but made no library")
    return libraries[0]
