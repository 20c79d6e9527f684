"""The limit on open files, in processes of their own."""

import subprocess
import sys

from gateway.listening import needed_files

RAISE = """
import logging, resource
from gateway.listening import raise_file_limit
logging.basicConfig(format="%(levelname)s %(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, {hard}), {hard}))
connections = raise_file_limit(2, {max_queue}, {max_connections})
print(*resource.getrlimit(resource.RLIMIT_NOFILE), connections)
"""


def raised(hard: int, max_queue: int, max_connections: int | None = None) -> tuple[str, str]:
    """The limits that a process then has with the most connections, and what it says."""
    code = RAISE.format(hard=hard, max_queue=max_queue, max_connections=max_connections)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr.strip()


def test_the_soft_limit_becomes_the_hard_one() -> None:
    assert raised(1000, 64) == (f"1000 1000 {1000 - needed_files(2, 0)}", "")


def test_as_many_connections_as_are_asked_for() -> None:
    assert raised(1000, 64, 500) == ("1000 1000 500", "")
    limits, said = raised(1000, 64, 5000)
    assert limits == "1000 1000 5000"
    assert said.startswith("WARNING") and "MAX_CONNECTIONS=5000" in said


def test_a_hard_limit_that_is_too_low_is_said() -> None:
    limits, said = raised(1000, 2000)
    assert limits.startswith("1000 1000 ")
    assert said.startswith("WARNING") and "MAX_QUEUE=2000" in said and "1000" in said
    assert str(needed_files(2, 2000)) in said


def test_each_request_and_each_worker_needs_files() -> None:
    assert needed_files(2, 65) == needed_files(2, 64) + 1
    assert needed_files(3, 64) > needed_files(2, 64) + 1


def test_a_reload_has_each_worker_twice() -> None:
    of_a_worker = needed_files(3, 64) - needed_files(2, 64)
    assert of_a_worker >= 2 * 8


def test_however_few_files_there_are_somebody_can_connect() -> None:
    limits, said = raised(150, 64)
    assert limits == "150 150 16"
    assert said.startswith("WARNING")
