"""What the README tells a newcomer to type works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shared.gguf_reader import read_gguf
from tests.gguf_files import tiny_llama
from tests.serving import ROOT, Server, served

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


def test_the_command_that_serves() -> None:
    assert "./scripts/serve   #" in blocks("sh")[0]
    script = str(ROOT / "scripts" / "serve")
    with served(command=[script], PYTHON=sys.executable) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 4}
        assert server.http.post(f"{server.url}/v1/completions", json=body).json()


def test_the_rewriting_command(tmp_path: Path) -> None:
    (command,) = [code for code in blocks("sh") if "rewrite_gguf" in code]
    tiny_llama().write(tmp_path / "SOURCE.gguf")
    words = command.replace("python ", f"{sys.executable} ").replace("scripts/", f"{ROOT}/scripts/")
    subprocess.run(words.split(), cwd=tmp_path, check=True, timeout=60, capture_output=True)
    assert read_gguf(tmp_path / "TARGET.gguf").is_byte_form
