"""From bodies to prompts, through the whole application."""

import asyncio
from dataclasses import replace

import pytest

from gateway.app import create_app
from gateway.chat.formats import FORMATS
from shared.messages import ModelInfo
from tests.unit.gateway.fakes import CONFIG, READY, ScriptedPool, error, post, request

USER = {"role": "user", "content": "Hi"}
CHATML = ModelInfo(
    "starcoder",
    n_ctx=100,
    n_vocab=300,
    max_token_bytes=20,
    special_tokens=("<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    fim_tokens=("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
)


def test_a_chat_format_by_name_makes_the_prompt_and_ends_the_answer() -> None:
    config = replace(CONFIG, chat_template=FORMATS["chatml"].as_format("CHAT_TEMPLATE"))
    pool = ScriptedPool(status=replace(READY, model=CHATML))
    told = {"role": "user", "content": "x<|im_end|>"}
    post(pool, "/v1/chat/completions", {"messages": [told], "stop": "y"}, config=config)
    (generation,) = pool.requests
    assert generation.prompt == (
        *("", "<|im_start|>", "user\nx<|im_end|>", "<|im_end|>", "\n"),
        *("<|im_start|>", "assistant\n"),
    )
    assert generation.stop == ("y",)
    (entry,) = request(pool, "GET", "/v1/models", config).json()["data"]
    assert entry["chat_template"] == "chatml"


def test_what_ends_a_turn_is_a_stop_string_where_it_is_no_token() -> None:
    config = replace(CONFIG, chat_template=FORMATS["chatml"].as_format("CHAT_TEMPLATE"))
    pool = ScriptedPool()
    post(pool, "/v1/chat/completions", {"messages": [USER], "stop": "y"}, config=config)
    assert pool.requests[0].stop == ("y", "<|im_end|>")


def test_a_broken_template_is_an_error_that_is_not_worth_trying_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = replace(CHATML, chat_template="{% for %}")
    pool = ScriptedPool(status=replace(READY, model=model))
    for _ in range(2):
        response = post(pool, "/v1/chat/completions", {"messages": [USER]})
        assert error(response) == (500, "internal_error", None)
        assert "template is broken" in response.text
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "does not compile" in record.getMessage() and record.exc_info is None
    assert pool.requests == []


def test_what_a_format_has_no_place_for_is_a_bad_request() -> None:
    config = replace(CONFIG, chat_template=FORMATS["llama-2"].as_format("CHAT_TEMPLATE"))
    system = {"role": "system", "content": "x"}
    pool = ScriptedPool()
    response = post(
        pool, "/v1/chat/completions", {"messages": [system, system, USER]}, config=config
    )
    assert error(response) == (400, "invalid_value", "messages")
    assert pool.requests == []


def test_a_completion_takes_special_tokens_and_a_suffix() -> None:
    pool = ScriptedPool(status=replace(READY, model=CHATML))
    post(pool, "/v1/completions", {"prompt": ["a<|im_end|>", "b"], "suffix": "c"})
    post(pool, "/v1/completions", {"prompt": "a<|im_end|>b", "suffix": None})
    filled = [("", "<fim_prefix>", text, "<fim_suffix>", "c", "<fim_middle>", "")
              for text in ("a<|im_end|>", "b")]  # fmt: skip
    assert [g.prompt for g in pool.requests] == [*filled, ("a", "<|im_end|>", "b")]
    assert {g.stop for g in pool.requests} == {()}
    too_long = post(pool, "/v1/completions", {"prompt": "a", "suffix": "b" * 2001})
    assert error(too_long) == (400, "context_length_exceeded", "prompt")
    refused = post(ScriptedPool(), "/v1/completions", {"prompt": "a", "suffix": "b"})
    assert error(refused) == (400, "unsupported_parameter", "suffix")


def test_a_template_that_cannot_render_is_reported_at_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = replace(CHATML, chat_template="{{ 'x' * 10 ** 9 }}")

    async def live() -> None:
        app = create_app(CONFIG, ScriptedPool(status=replace(READY, model=model)))
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(live(), 5))
    assert "'own' (the model's file) is not usable: it does too much work" in caplog.text
