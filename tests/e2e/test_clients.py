"""Released clients in an environment of their own, against a server.

The checks are in `tests/clients`; each client's run in one process, and each is a test here.
"""

import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import pytest

from tests.clients.running import FOLDER, PYTHON, checks_of, outcomes
from tests.serving import Server

SCRIPTS = (
    "openai_python.py",
    "openai_parameters.py",
    "openai_node.mjs",
    "langchain.py",
    "litellm.py",
    "llama_index.py",
    "instructor.py",
    "llm_command.py",
)
CHECKS = [(script, check) for script in SCRIPTS for check in checks_of(script)]
Run: TypeAlias = Callable[[str], dict[str, str | None]]


@pytest.fixture(scope="module")
def run(quick_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a script, once."""
    return cache(lambda script: outcomes(script, quick_server, tmp_path_factory.mktemp("client")))


def require(script: str) -> None:
    """Whatever runs the script must be installed; only Node may be missing, and not in CI."""
    if not script.endswith(".mjs"):
        assert PYTHON.exists(), "the clients are not installed: ./scripts/test does that"
    elif shutil.which("node") is None or not (FOLDER / "node_modules" / "openai").exists():
        reason = "OpenAI's client for Node is not installed: it takes npm and ./scripts/test"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.parametrize(("script", "check"), CHECKS)
def test_check(script: str, check: str, run: Run) -> None:
    require(script)
    problem = run(script)[check]
    assert problem is None, problem


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_check_is_missed(script: str, run: Run) -> None:
    require(script)
    assert sorted(run(script)) == sorted(checks_of(script))


def test_no_script_is_missed() -> None:
    found = {path.name for path in FOLDER.glob("*.*") if checks_of(path.name)}
    assert found == set(SCRIPTS)
