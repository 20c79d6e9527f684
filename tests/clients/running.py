"""Runs the scripts of this folder against a server, each in a process of its own."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.serving import ROOT, Server

FOLDER = ROOT / "tests" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
DEADLINE_S = 180.0
"""How long all checks of one client may take, on a machine that does much else."""

_CHECK = re.compile(r"^(?:export )?(?:async )?(?:def|function) check_(\w+)", re.MULTILINE)


def checks_of(script: str) -> list[str]:
    """The names of the checks in a script, without running it."""
    return _CHECK.findall((FOLDER / script).read_text("utf-8"))


def outcomes(
    script: str, server: Server, folder: Path, python: Path = PYTHON
) -> dict[str, str | None]:
    """What went wrong in each check of a script, or None.

    Args:
        script: its name.
        server: which one to ask.
        folder: where the client may write.
        python: runs it, if it is in Python.
    """
    try:
        done = subprocess.run(
            _command_of(script, python),
            cwd=ROOT,
            env={
                **os.environ,
                "OPENAI_BASE_URL": f"{server.url}/v1",
                "OPENAI_API_KEY": "none",
                "MODEL": server.model,
                "HOME": str(folder),
                "LLM_USER_PATH": str(folder),
                "NO_PROXY": "*",
                # They would ask the internet for news.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LANGSMITH_TRACING": "false",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    except subprocess.TimeoutExpired as error:
        return dict.fromkeys(checks_of(script), f"{error}\n{server.log()}")
    if done.returncode != 0:
        return dict.fromkeys(checks_of(script), done.stderr)
    report: dict[str, str | None] = json.loads(done.stdout)
    return report


def _command_of(script: str, python: Path) -> list[str]:
    if script.endswith(".mjs"):
        node = shutil.which("node")
        assert node is not None
        return [node, str(FOLDER / "checks.mjs"), str(FOLDER / script)]
    return [str(python), "-m", "tests.clients.checks", f"tests.clients.{Path(script).stem}"]
