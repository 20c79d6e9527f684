"""What the README tells a newcomer to type works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import ROOT, Server

ADDRESS = "localhost:8000"


def blocks(*languages: str) -> list[str]:
    """The code blocks of the README in one of these languages."""
    text = (ROOT / "README.md").read_text("utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def curls() -> list[str]:
    """The shell blocks that begin with curl."""
    return [code for code in blocks("sh", "bash") if code.startswith("curl")]


def run(command: list[str], **variables: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def test_there_is_something_to_type() -> None:
    assert len(curls()) >= 2
    assert len(blocks("python")) >= 1


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("code", curls())
def test_a_curl_line(code: str, demo_server: Server, tmp_path: Path) -> None:
    assert ADDRESS in code
    code = code.replace(ADDRESS, demo_server.url.removeprefix("http://"))
    (tmp_path / ".curlrc").write_text("max-time = 150\nfail\nsilent\nshow-error\n")
    output = run(["bash", "-euc", code], CURL_HOME=str(tmp_path))
    assert output.strip() and '"error"' not in output
    if "chat/completions" in code and '"model"' not in code:
        assert output.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_example(code: str, demo_server: Server) -> None:
    code = code.replace(f"http://{ADDRESS}", demo_server.url)
    assert run([sys.executable, "-c", code]).strip()
