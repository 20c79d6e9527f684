"""What is imported only where it is needed: it takes time and memory."""

import subprocess
import sys

import pytest

from tests.serving import ROOT


@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("gateway.inspect", {"numpy", "ctransformers", "fastapi", "huggingface_hub"}),
        ("gateway.server", {"opentelemetry.sdk", "huggingface_hub", "ctransformers"}),
    ],
)
def test_what_is_not_needed_is_not_imported(module: str, not_needed: set[str]) -> None:
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert module in done.stdout.split() and not not_needed & set(done.stdout.split()), done.stderr
