"""Rendering conversations."""

from dataclasses import replace

import pytest

from gateway.chat_template import ChatMessage, render
from gateway.errors import ApiError
from shared.errors import ErrorCode
from tests.unit.gateway.fakes import MODEL

HELLO = [ChatMessage(role="user", content="Hi <b>")]


def rendered(template: str, messages: list[ChatMessage] = HELLO) -> str:
    return render(replace(MODEL, chat_template=template, bos_token="<s>"), messages)


def test_a_model_without_a_template_gets_plain_lines() -> None:
    messages = [ChatMessage(role="system", content="Be kind."), *HELLO]
    assert render(MODEL, messages) == "system: Be kind.\nuser: Hi <b>\nassistant:"


def test_a_template_sees_what_templates_expect() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}\n"
        "  {% if m['role'] == 'user' %}\n"
        "[{{ m.content }}]{{ eos_token }}\n"
        "  {% endif %}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt and tools is none %}go{% endif %}"
    )
    assert rendered(template) == "<s>[Hi <b>]</s>\ngo"


def test_loop_controls_dates_and_json_work() -> None:
    loop = "{% for m in messages %}{{ loop.index }}{% break %}{% endfor %}"
    assert rendered(loop, HELLO * 2) == "1"
    assert len(rendered("{{ strftime_now('%Y') }}")) == 4
    assert rendered("{{ messages[0] | tojson }}") == '{"role": "user", "content": "Hi <b>"}'


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('Roles must alternate') }}",
        "{{ messages[7].content + 'x' }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages + 5 }}",
    ],
)
def test_a_template_that_refuses_is_a_bad_request(template: str) -> None:
    with pytest.raises(ApiError) as caught:
        rendered(template)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "messages")


def test_the_client_reads_why_the_template_refused() -> None:
    with pytest.raises(ApiError, match="Roles must alternate"):
        rendered("{{ raise_exception('Roles must alternate') }}")


def test_a_template_that_does_not_compile_is_the_servers_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ApiError) as caught:
        rendered("{% for %}")
    assert caught.value.code is ErrorCode.MODEL_UNAVAILABLE
    assert "does not compile" in caplog.text


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered("{{ 'once' }}")
    monkeypatch.setattr("gateway.chat_template.ImmutableSandboxedEnvironment", None)
    assert rendered("{{ 'once' }}") == "once"
