"""Reloads without processes: what is said of a failure."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.plan import Plan
from gateway.reload import Reloads
from gateway.settings import Settings
from shared.config import WorkerConfig


def said(text: str, settings: Settings, model_path: str = "") -> str:
    plan = Plan(WorkerConfig("echo", model_path), workers=1)
    nothing: Any = SimpleNamespace()
    return Reloads(settings, nothing, plan, nothing, nothing, list)._failure(text).message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/models/m.gguf: it ends too soon", "m.gguf: it ends too soon"),
        ("MODEL_NAME=/srv/models/m.gguf: no such file", "MODEL_NAME=m.gguf: no such file"),
        ("cannot open '/srv/a/b.gguf' or ~/c/d.bin", "cannot open 'b.gguf' or d.bin"),
        ("no /m.gguf, no ./m.gguf, no ../x/m.gguf", "no m.gguf, no m.gguf, no m.gguf"),
        ("org/model on the hub has 1/2 of it", "org/model on the hub has 1/2 of it"),
        ("4 workers need 3 MiB and/or more", "4 workers need 3 MiB and/or more"),
    ],
)
def test_only_names_of_files_are_told(text: str, shown: str) -> None:
    assert said(text, Settings()).endswith(f"all is as before: {shown}")


def test_folders_with_any_name_are_not_told(tmp_path: Path) -> None:
    folder = tmp_path / "my: own, models"
    folder.mkdir()
    path = folder / "m.gguf"
    shown = said(f"MODEL_NAME={path}: no such file", Settings(model_name=str(path)))
    assert shown.endswith("MODEL_NAME=m.gguf: no such file")
    shown = said(f"{path}: broken", Settings(model_name="org/model"), str(path))
    assert shown.endswith("all is as before: m.gguf: broken")


def test_what_is_told_is_logged_whole(caplog: pytest.LogCaptureFixture) -> None:
    said("/srv/models/m.gguf: broken", Settings())
    assert "/srv/models/m.gguf: broken" in caplog.text
