"""The launcher: what it says to a mistake, and that it serves files and folders."""

import socket
import ssl
import sys
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.gguf_files import tiny_llama
from tests.serving import MAIN, chat, launched, run_main, served

SCRIPT = (str(Path(sys.executable).with_name("ggml-fastapi")),)
MODULE = (sys.executable, "-m", "gateway")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two models and something else."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("first.gguf", "second.gguf"):
        tiny_llama(n_ctx=512).write(folder / name)
    (folder / "notes.txt").write_text("none")
    (folder / "broken.bin").write_bytes(b"GGUF????")
    return folder


def complaint(*options: str, **settings: str) -> str:
    """What the launcher says on its one line before it ends with status 2."""
    ended = run_main(*options, **settings)
    assert ended.returncode == 2, ended
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ggml-fastapi: ")
    return line


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"MODEL_NAME": "/no/such/model.gguf"}, ["MODEL_NAME=/no/such/model.gguf"]),
        ({"WORKERS": "many"}, ["WORKERS='many'", "auto"]),
        ({"MODEL_TYPE": "echo", "HOST": "192.0.2.1"}, ["HOST=192.0.2.1"]),
        ({"MODEL_TYPE": "echo", "HOST": "." * 80}, ["HOST=.."]),
        ({"MODEL_TYPE": "echo", "SSL_KEYFILE": "/no/key.pem"}, ["SSL_KEYFILE", "SSL_CERTFILE"]),
        ({"MODEL_TYPE": "echo", "SSL_CERTFILE": "README.md"}, ["SSL_CERTFILE", "PEM"]),
        ({"MODEL_NAME": "/no/model.gguf", "API_KEYS": "short"}, ["API_KEYS: key 1"]),
        ({"MODEL_NAME": "/no/model", "SSL_CERTFILE": "/no/cert.pem"}, ["SSL_CERTFILE=/no/cert."]),
    ],
)
def test_a_mistake_is_one_line_and_status_2(settings: dict[str, str], named: list[str]) -> None:
    line = complaint(**settings)
    for text in named:
        assert text in line


def test_a_port_that_is_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = complaint("--port", port, MODEL_TYPE="echo")
    assert f"PORT={port}" in line and "in use" in line


def test_a_broken_model_is_named(folder: Path) -> None:
    assert "broken.bin" in complaint(MODEL_NAME=str(folder), MODEL_FILE="broken.bin")
    assert "notes.txt" in complaint(MODEL_NAME=str(folder / "notes.txt"))


@pytest.mark.parametrize("module", ["logging", "gateway.plan", "uvicorn", "uvloop"])
def test_control_c_before_it_serves_is_one_line(module: str, tmp_path: Path) -> None:
    # Amid an import an exception may be lost, or end in a traceback of fifty lines.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "if 'gateway' in sys.orig_argv: sys.meta_path.insert(0, Finder())\n"
    )
    ended = run_main(command=MODULE, MODEL_TYPE="echo", PYTHONPATH=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "ggml-fastapi: interrupted\n"


def test_it_serves_and_helps_however_it_is_started() -> None:
    with served("--workers", "2", command=(*SCRIPT, "serve"), MODEL_TYPE="echo") as server:
        assert server.http.post("/v1/completions", json={"prompt": "x"}).json() == "x"
        assert len(server.worker_pids()) == 3  # one is parked
        server.stop()
    ended = [run_main("--help", command=command) for command in (MAIN, MODULE, SCRIPT)]
    assert [each.returncode for each in ended] == [0] * 3
    assert len({each.stdout for each in ended}) == 1 and "--workers" in ended[0].stdout


def test_a_current_model_is_rewritten_once_and_served(folder: Path, tmp_path: Path) -> None:
    original, cache = (folder / "first.gguf").read_bytes(), tmp_path / "cache"
    options = ("--workers", "2", "--context-length", "256")
    named = {"MODEL_NAME": str(folder), "MODEL_FILE": "first.gguf", "XDG_CACHE_HOME": str(cache)}
    body = chat("hello world", stream=False, max_tokens=8, temperature=0)
    with served(*options, **named) as server:
        assert server.model == "first"
        (entry,) = server.http.get("/v1/models").json()["data"]
        assert (entry["max_model_len"], entry["family"]) == (256, "llama")
        answers = [server.http.post("/v1/chat/completions", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        first, second = (answer.json() for answer in answers)
        assert first["choices"] == second["choices"]
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert "API_KEYS" not in server.stderr, "it listens on a loopback address"
        server.stop()
    assert (folder / "first.gguf").read_bytes() == original
    (rewritten,) = (cache / "ggml-fastapi").glob("*.gguf")
    stamp = rewritten.stat().st_mtime_ns
    path = str(folder / "first.gguf")
    with served("--workers", "1", XDG_CACHE_HOME=str(cache), MODEL_NAME=path) as server:
        server.stop()
    assert rewritten.stat().st_mtime_ns == stamp


def test_a_zygote_that_dies_at_once(tmp_path: Path) -> None:
    # Runs at the start of each Python.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'worker.zygote' in ' '.join(sys.orig_argv):\n    os.abort()\n"
    )
    ended = run_main("--workers", "2", MODEL_TYPE="echo", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1, ended
    assert "the model cannot be served: " in ended.stderr and "Traceback" not in ended.stderr


def test_an_encrypted_key_for_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    password, encrypted = "correct horse", tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    with_password = {"SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(encrypted)}
    settings = {**with_password, "SSL_KEYFILE_PASSWORD": password, "WORKERS": "1"}
    with launched(MODEL_TYPE="echo", **settings) as server:
        url = server.wait_for_output(r"is ready on (https://localhost:\d+)\n")[1]
        with httpx.Client(verify=trusted, timeout=20) as client:
            assert client.post(f"{url}/v1/completions", json={"prompt": "x"}).json() == "x"
        server.stop()
    for wrong in ("", "battery staple"):
        line = complaint(MODEL_TYPE="echo", SSL_KEYFILE_PASSWORD=wrong, **with_password)
        assert "SSL_KEYFILE_PASSWORD" in line
    other = tmp_path / "other.pem"
    authority.issue_cert("localhost").private_key_pem.write_to_path(other)
    line = complaint(MODEL_TYPE="echo", SSL_CERTFILE=str(certificate), SSL_KEYFILE=str(other))
    assert "SSL_CERTFILE and SSL_KEYFILE" in line
    line = complaint(MODEL_TYPE="echo", SSL_CERTFILE=str(certificate))
    assert "SSL_CERTFILE" in line and "private key" in line


def test_a_model_that_cannot_be_loaded_is_status_1(tmp_path: Path) -> None:
    model = tiny_llama("bytes").write(tmp_path / "model.gguf")
    # Runs at the start of each Python, and takes the library away from the zygote alone.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'worker.zygote' in ' '.join(sys.orig_argv):\n"
        "    sys.modules['ctransformers'] = None\n"
    )
    ended = run_main("--workers", "2", MODEL_NAME=str(model), PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1, ended
    assert "ready" not in ended.stdout
    assert "the model cannot be served: ModuleNotFoundError: " in ended.stderr
    assert "ctransformers" in ended.stderr and "Traceback" not in ended.stderr
