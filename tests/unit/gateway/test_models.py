"""Finding models by name."""

from dataclasses import replace

import pytest

from gateway.body import BodyReader
from gateway.errors import ApiError
from gateway.models import VERSION, Models, Served
from gateway.observe.metrics import Metrics
from shared.errors import ErrorCode
from tests.unit.gateway.fakes import CONFIG, ScriptedPool


def test_a_model_has_a_name_and_can_be_replaced() -> None:
    first = Served(CONFIG, ScriptedPool())
    models = Models(first, Metrics(VERSION), BodyReader(1000, 1))
    assert models.find(None) is models.find("org/model") is first
    for name, shown in (("gpt-4", "'gpt-4'"), ("x" * 1_000_000, "x" * 100 + "...")):
        with pytest.raises(ApiError, match="This server has: 'org/model'") as caught:
            models.find(name)
        assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
        assert shown in caught.value.message and len(caught.value.message) < 200
    second = Served(replace(CONFIG, model_id="other"), ScriptedPool())
    models.replace(second)
    assert models.find(None) is models.find("other") is second
    with pytest.raises(ApiError, match="'other'"):
        models.find("org/model")
    assert first.config.model_id == "org/model", "whoever has found it keeps it"
