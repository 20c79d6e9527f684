"""What tests with real processes share."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from gateway import demo_model as demo
from gateway.hub import servable
from tests.quick_model import write_quick_model
from tests.serving import Server, served, served_echo

# How long an example takes says nothing on a machine that does much else.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model's file; it is downloaded once and kept in the user's cache."""
    return demo.fetch()


@pytest.fixture(scope="session")
def rewritten_demo(demo_model: Path) -> Path:
    """The same as ctransformers reads it."""
    return servable(demo_model, engine="ctransformers").path


@pytest.fixture(scope="session")
def echo_server() -> Iterator[Server]:
    """Two workers that repeat what they are told, a backlog of 8."""
    with served_echo("--max-queue", "8", "--drain-timeout", "2") as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def slow_server() -> Iterator[Server]:
    """The same, at 20 ms for each byte."""
    with served_echo("--max-queue", "8", "--drain-timeout", "2", delay_ms=20) as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def demo_server(demo_model: Path) -> Iterator[Server]:
    """Two workers with the demo model; with one slot each, a text does not depend on others."""
    with served("--workers", "2", "--drain-timeout", "2") as server:
        yield server
        server.stop()


@pytest.fixture(scope="session")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers at once, by the name of the demo model."""
    return write_quick_model(tmp_path_factory.mktemp("quick") / "SmolLM2-135M-Instruct.gguf")


@pytest.fixture(scope="session")
def quick_server(quick_model: Path) -> Iterator[Server]:
    """Two workers with that one."""
    with served("--workers", "2", "--drain-timeout", "2", MODEL_NAME=str(quick_model)) as server:
        yield server
        server.stop()
