"""What the README and docs tell a newcomer to type works as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.model.gguf_reader import read_gguf
from tests.gguf_files import tiny_llama
from tests.gguf_kinds import tiny
from tests.hub import Hub, serve_hub
from tests.serving import ROOT, Server, served

ADDRESS = "localhost:8000"


def blocks(*languages: str) -> list[str]:
    """The code blocks of the documentation in one of these languages, the README's first."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(path.read_text("utf-8") for path in paths)
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


def curls() -> list[str]:
    """The shell blocks that begin with curl, but for the administrator's."""
    codes = blocks("sh", "bash")
    return [code for code in codes if code.startswith("curl") and "$ADMIN_KEY" not in code]


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
def test_a_curl_line(code: str, quick_server: Server, tmp_path: Path) -> None:
    assert ADDRESS in code
    code = code.replace(ADDRESS, quick_server.url.removeprefix("http://"))
    (tmp_path / ".curlrc").write_text("max-time = 150\nfail\nsilent\nshow-error\n")
    output = run(["bash", "-euc", code], CURL_HOME=str(tmp_path))
    assert output.strip() and '"error"' not in output
    if "chat/completions" in code and '"model"' not in code:
        assert output.endswith("data: [DONE]\n\n")


def test_the_administrators_curl_line() -> None:
    (code,) = [code for code in blocks("sh") if "$ADMIN_KEY" in code]
    with served("--workers", "1", MODEL_TYPE="echo", ADMIN_KEY="administrator") as server:
        code = code.replace(ADDRESS, server.url.removeprefix("http://"))
        assert '"seconds"' in run(["bash", "-euc", code], ADMIN_KEY="administrator")


@pytest.mark.parametrize("code", blocks("python"))
def test_a_python_example(code: str, quick_server: Server) -> None:
    code = code.replace(f"http://{ADDRESS}", quick_server.url)
    assert run([sys.executable, "-c", code]).strip()


def test_the_command_that_serves() -> None:
    assert "./scripts/serve   #" in blocks("sh")[0]
    script = str(ROOT / "scripts" / "serve")
    with served(command=[script], PYTHON=sys.executable) as server:
        body = {"prompt": "Once upon a time", "max_tokens": 4}
        assert server.http.post(f"{server.url}/v1/completions", json=body).json()


def small(name: str) -> Callable[[], bytes]:
    return (ROOT / "tests" / "models" / name).read_bytes


MODELS = {
    "WizardCoder": (small("starcoder-mqa.bin"), "wizardcoder"),
    "starchat": (small("starcoder-mqa.bin"), "starchat"),
    "falcon": (small("falcon-7b.bin"), "falcon-instruct"),
    "mpt": (small("mpt-alibi8.bin"), "mpt-chat"),
    "TinyLlama": (tiny_llama().to_bytes, "own"),
    "Qwen3": (tiny("qwen3").to_bytes, "own"),
}
"""Per word in a repository's name: a small model of that family, and the chat format it gets."""


def commands_with_a_model() -> list[dict[str, str]]:
    """The variables of each command that names a model."""
    lines = [line for code in blocks("sh") for line in code.splitlines() if "MODEL_NAME" in line]
    lines = list(dict.fromkeys(lines))
    assert all(line.endswith(" ./scripts/serve") for line in lines)
    return [dict(word.split("=", 1) for word in line.split()[:-1]) for line in lines]


@pytest.mark.parametrize("variables", commands_with_a_model(), ids=lambda case: case["MODEL_NAME"])
def test_a_command_that_names_a_model(variables: dict[str, str], tmp_path: Path) -> None:
    """The file of that name is one of our own, on a hub of our own."""
    name, _, quantisation = variables["MODEL_NAME"].partition(":")
    file = variables.get(
        "MODEL_FILE", f"m-{quantisation}.gguf" if quantisation else Path(name).name
    )
    (write, chat_format), *_ = [known for word, known in MODELS.items() if word in name + file]
    content = write()
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / file).write_bytes(content)
    with (
        serve_hub(Hub({name: {file: content}})) as hub,
        served(
            "--workers", "1", HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hub"), HOME=str(home),
            XDG_CACHE_HOME=str(tmp_path / "cache"), HF_TOKEN="", NO_PROXY="*", **variables,
        ) as server,
    ):  # fmt: skip
        (model,) = server.http.get("/v1/models").json()["data"]
        assert model["chat_template"] == chat_format
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": False}
        assert server.http.post("/v1/chat/completions", json=body).status_code == 200


def command_line(word: str) -> list[str]:
    """The words of the one command with this word in it, with the paths of this checkout."""
    (line,) = [line for code in blocks("sh") for line in code.splitlines() if word in line]
    # The command that pip has put beside the interpreter.
    line = line.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    line = line.replace("scripts/", f"{ROOT}/scripts/").replace("python ", f"{sys.executable} ")
    return line.split()


def test_the_inspecting_command(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "models" / "mpt-clip.bin", tmp_path / "FILE")
    done = subprocess.run(
        command_line("ggml-fastapi inspect"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "servable: yes" in done.stdout


def test_the_rewriting_command(tmp_path: Path) -> None:
    tiny_llama().write(tmp_path / "SOURCE.gguf")
    words = command_line("rewrite_gguf")
    subprocess.run(words, cwd=tmp_path, check=True, timeout=60, capture_output=True)
    assert read_gguf(tmp_path / "TARGET.gguf").is_byte_form
