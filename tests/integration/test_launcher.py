"""The launcher: what it says to a mistake, and that it serves however it is started."""

import sys
from pathlib import Path

import pytest

from tests.gguf_files import tiny_llama
from tests.serving import MAIN, chat, run_main, served

SCRIPT = (str(Path(sys.executable).with_name("ggml-fastapi")),)
MODULE = (sys.executable, "-m", "gateway")
NO_MODEL = {"MODEL_NAME": "/no/such/model.gguf"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (NO_MODEL, "MODEL_NAME=/no/such/model.gguf"),
        ({"WORKERS": "many"}, "WORKERS='many'"),
        ({"MODEL_TYPE": "echo", "HOST": "192.0.2.1"}, "HOST=192.0.2.1"),
        # What is wrong with these need not wait for a download.
        ({**NO_MODEL, "API_KEYS": "a-good-key,tiny"}, "API_KEYS: key 2: a key must have at least"),
        ({**NO_MODEL, "SSL_CERTFILE": "/no/cert.pem"}, "SSL_CERTFILE=/no/cert.pem"),
        ({**NO_MODEL, "CHAT_TEMPLATE": "chatmll"}, "CHAT_TEMPLATE='chatmll' is not allowed"),
    ],
    ids=["model", "workers", "host", "keys", "certificate", "template"],
)
def test_a_mistake_is_one_line_and_status_2(settings: dict[str, str], says: str) -> None:
    ended = run_main(**settings)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("ggml-fastapi: ") and says in line and "tiny" not in line


@pytest.mark.parametrize("module", ["logging", "uvloop"])
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


def test_help_is_the_same_however_it_is_started() -> None:
    ended = [run_main("--help", command=command) for command in (MAIN, MODULE, SCRIPT)]
    assert [each.returncode for each in ended] == [0] * 3
    assert len({each.stdout for each in ended}) == 1 and "--workers" in ended[0].stdout


@pytest.mark.parametrize("engine", ["auto", "ctransformers"])
def test_a_current_model_is_served_and_rewritten_only_for_ctransformers(
    engine: str, tmp_path: Path
) -> None:
    path = tiny_llama(n_ctx=512).write(tmp_path / "first.gguf")
    original = path.read_bytes()
    body = chat("hello world", stream=False, max_tokens=8, temperature=0)
    with served(
        "--workers", "2", "--context-length", "256", command=(*SCRIPT, "serve"),
        MODEL_NAME=str(path), XDG_CACHE_HOME=str(tmp_path / "cache"), ENGINE=engine,
    ) as server:  # fmt: skip
        assert len(server.worker_pids()) == 3  # one is parked
        (entry,) = server.http.get("/v1/models").json()["data"]
        assert [entry[name] for name in ("id", "max_model_len", "family")] == [
            "first", 256, "llama",
        ]  # fmt: skip
        answers = [server.http.post("/v1/chat/completions", json=body) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        first, second = (answer.json() for answer in answers)
        assert first["choices"] == second["choices"]
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
        assert "API_KEYS" not in server.stderr, "it listens on a loopback address"
        server.stop()
    assert path.read_bytes() == original
    rewritten = list(tmp_path.glob("cache/ggml-fastapi/first-*.gguf"))
    assert len(rewritten) == (engine == "ctransformers")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("import os; os.abort()", ""),
        ("sys.modules['worker.engines.echo'] = None", "ModuleNotFoundError: "),
    ],
    ids=["the zygote dies at once", "it cannot load the model"],
)
def test_a_model_that_cannot_be_served_is_status_1(fault: str, says: str, tmp_path: Path) -> None:
    # Runs at the start of each Python.
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nif 'worker.zygote' in ' '.join(sys.orig_argv):\n    {fault}\n"
    )
    ended = run_main("--workers", "2", MODEL_TYPE="echo", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1, ended
    assert "ready" not in ended.stdout and "Traceback" not in ended.stderr
    assert f"the model cannot be served: {says}" in ended.stderr
