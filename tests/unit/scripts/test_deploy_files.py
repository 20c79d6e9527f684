"""The files in scripts/deploy: what they say to the server is what it understands."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.auth.keys import OPEN_PATHS
from gateway.settings import Settings
from tests.serving import ROOT, Server

DEPLOY = ROOT / "scripts" / "deploy"
NO_SETTINGS = {"HOME", "XDG_CACHE_HOME"}
CONTAINER_PORT = 8000


def settings_of(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment means; every name in it must be one."""
    names = {field.upper() for field in Settings.__dataclass_fields__}
    assert set(environment) - NO_SETTINGS <= names
    return Settings.load([], environment)


def unit() -> dict[str, list[str]]:
    """The values of each directive of the systemd unit."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / "ggml-fastapi.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments in one line."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line]


def instruction(name: str) -> str:
    """The arguments of the last instruction of that name."""
    return [arguments for found, arguments in dockerfile() if found == name][-1]


def docker_settings() -> Settings:
    pairs = (pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
    return settings_of({name: value for name, value in pairs})


def kubernetes() -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())


def pod() -> dict[str, Any]:
    deployment = next(one for one in kubernetes() if one["kind"] == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (one,) = pod()["containers"]
    return dict(one)


def test_the_unit_gives_running_requests_the_time_that_they_are_promised() -> None:
    given = unit()
    pairs = (pair.split("=", 1) for text in given["Environment"] for pair in text.split())
    settings = settings_of({name: value for name, value in pairs})
    assert int(given["TimeoutStopSec"][0]) > settings.drain_timeout + 10
    assert given["KillMode"] == ["mixed"]
    assert given["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert given["ExecStart"][0].endswith("/bin/ggml-fastapi")
    # The credential of that name is where the keys are.
    assert given["LoadCredential"][0].split(":")[0] == str(settings.api_keys).removeprefix("@%d/")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "ggml-fastapi.service").read_text()
    copy = tmp_path / "ggml-fastapi.service"
    # It wants the program to be there.
    copy.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    ended = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    security = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(copy)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert security.returncode == 0, security.stdout


def test_the_image_runs_as_nobody_in_particular_and_without_a_shell() -> None:
    assert instruction("USER") == str(pod()["securityContext"]["runAsUser"]) != "0"
    assert json.loads(instruction("ENTRYPOINT")) == [
        "/usr/bin/tini", "--", "/opt/ggml-fastapi/bin/ggml-fastapi",
    ]  # fmt: skip
    settings = docker_settings()
    assert settings.host == "0.0.0.0"
    assert str(settings.port) == instruction("EXPOSE") == str(CONTAINER_PORT)


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="needs hadolint")
def test_hadolint_takes_the_dockerfile() -> None:
    ended = subprocess.run(
        ["hadolint", str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_the_image_has_all_that_it_is_made_of() -> None:
    copied = [
        source
        for name, arguments in dockerfile()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored and sent == set(copied)
    assert all((ROOT / source).exists() for source in copied)
    project = (ROOT / "pyproject.toml").read_text()
    (packages,) = re.findall(r"^packages = (\[.*\])$", project, flags=re.MULTILINE)
    assert set(json.loads(packages)) <= sent


def test_the_health_check_of_the_image_tells_the_living_from_the_dead(
    echo_server: Server, unused_port: int
) -> None:
    _, _, command = instruction("HEALTHCHECK").partition("CMD ")
    python, *arguments = json.loads(command)
    assert python.endswith("/bin/python")
    for port, status in ((echo_server.url.rpartition(":")[2], 0), (str(unused_port), 1)):
        ended = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PORT": port}, capture_output=True, timeout=60,
        )  # fmt: skip
        assert ended.returncode == status, ended.stderr


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that is taken, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_the_pod_is_told_only_what_the_server_understands() -> None:
    environment = {one["name"]: one["value"] for one in container()["env"]}
    settings = settings_of(environment)
    assert settings.api_keys is not None
    mounts = {one["mountPath"]: one["name"] for one in container()["volumeMounts"]}
    assert str(Path(settings.api_keys.removeprefix("@")).parent) in mounts
    assert str(Path(str(settings.model_name)).parent) in mounts
    assert {instruction("VOLUME"), "/tmp"} <= set(mounts)
    assert set(mounts.values()) == {one["name"] for one in pod()["volumes"]}


def test_the_pod_has_the_time_that_it_takes_to_start_and_to_end() -> None:
    settings = settings_of({one["name"]: one["value"] for one in container()["env"]})
    pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert pod()["terminationGracePeriodSeconds"] > pause + settings.drain_timeout + 10
    startup = container()["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= settings.start_timeout


def test_the_probes_ask_what_is_open() -> None:
    (port,) = container()["ports"]
    assert port["containerPort"] == CONTAINER_PORT
    for name, path in (("startup", "/ready"), ("readiness", "/ready"), ("liveness", "/health")):
        probe = container()[f"{name}Probe"]["httpGet"]
        assert probe == {"path": path, "port": port["name"]}
        assert path in OPEN_PATHS


def test_the_service_leads_to_the_pod() -> None:
    deployment, service = kubernetes()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == labels == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["ports"][0]["targetPort"] == container()["ports"][0]["name"]


def test_the_pod_may_do_nothing_that_it_need_not() -> None:
    assert pod()["securityContext"]["runAsNonRoot"] is True
    context = container()["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
