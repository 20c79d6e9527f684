"""What a library that aborts while it loads a model does to the server: it says so and ends."""

import shutil
import subprocess
from pathlib import Path

import pytest

from shared.model.library import Cpu, package_library
from tests.models.reference import FOLDER
from tests.serving import run_main

SOURCE = """
#include <stdio.h>
#include <stdlib.h>
void *ctransformers_llm_create(const char *path) {
    fprintf(stderr, "GGML_ASSERT: ggml.c:4397: not enough space in the context's memory pool\\n");
    abort();
}
"""


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
def test_an_abort_while_loading_is_reported(tmp_path: Path) -> None:
    """It happens in the zygote, and costs no request."""
    package = package_library(Cpu.here()).path
    (tmp_path / "aborts.c").write_text(SOURCE)
    library = tmp_path / "aborts.so"
    # All other functions are the package's.
    subprocess.run(
        [
            *("cc", "-shared", "-fPIC", "-o", library, tmp_path / "aborts.c"),
            *("-Wl,--no-as-needed", f"-Wl,-rpath,{Path(package).parent}", package),
        ],
        check=True,
        timeout=60,
    )
    ended = run_main(MODEL_NAME=str(FOLDER / "starcoder-mqa.bin"), CT_LIB=str(library))
    assert ended.returncode == 1
    assert "killed by SIGABRT" in ended.stderr
    assert "not enough space in the context's memory pool" in ended.stderr
    assert "Traceback" not in ended.stderr
