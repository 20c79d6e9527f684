"""The checks of OpenAI's client again, with the version that is installed beside the tests."""

import sys
from pathlib import Path

import pytest

from tests.clients.running import checks_of, outcomes
from tests.serving import Server

SCRIPT = "openai_python.py"


@pytest.fixture(scope="module")
def found(demo_server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    folder = tmp_path_factory.mktemp("client")
    return outcomes(SCRIPT, demo_server, folder, Path(sys.executable))


@pytest.mark.parametrize("check", checks_of(SCRIPT))
def test_check(check: str, found: dict[str, str | None]) -> None:
    assert found[check] is None, found[check]
