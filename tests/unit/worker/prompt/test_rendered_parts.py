"""From a conversation to a prompt: tools, and last messages that are gone on with."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.config import WorkerConfig
from shared.errors import ErrorCode
from shared.messages import Text
from tests.unit.worker.prompt.vocabularies import (
    CONTROL,
    SPECIAL,
    parts_of,
    prompt_error,
    prompts,
    text_of,
)
from worker.engines.echo import EchoEngine
from worker.prompt.formats import FORMATS, ChatFormat
from worker.prompt.prompts import PromptError, Prompts
from worker.prompt.tools import call_text, instructions

# As those of Hermes 2 Pro and Qwen 2.5 are, in fewer words.
HERMES = """
{%- if tools %}
{{- '<|im_start|>system\n' ~ (messages[0].content ~ '\n\n' if messages[0].role == 'system') }}
{{- '<tools>' }}
{%- for tool in tools %}{{- '\n' ~ tool | tojson }}{%- endfor %}
{{- '\n</tools>\nA call: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' ~ messages[0].content ~ '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or message.role == 'assistant' and not message.tool_calls %}
{{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content ~ '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant' }}
{%- if message.content %}{{- '\n' ~ message.content }}{%- endif %}
{%- for tool_call in message.tool_calls %}
{%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
{{- '\n<tool_call>\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
{{- tool_call.arguments | tojson }}
{{- '}\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' ~ message.content ~ '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
NATIVE = prompts(HERMES)
CHATML = prompts(FORMATS["chatml"].as_format(""))
USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": "Be brief."}


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description}}


def called(*calls: tuple[str, Any], content: str = "") -> dict[str, Any]:
    made = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
    return {"role": "assistant", "content": content, "tool_calls": made}


def answered(content: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, "tool_call_id": "1"}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def named(name: str) -> Prompts:
    return NATIVE if name == "hermes" else prompts(FORMATS[name].as_format(""))


WEATHER = tool("weather", "Größe: <b>")
PAST = [
    USER,
    called(("weather", {"city": "Köln"}), ("now", {})),
    answered("11°"),
    answered("12:00"),
]


def test_a_template_that_knows_tools_tells_of_them_itself() -> None:
    assert text_of(NATIVE, [SYSTEM, *PAST], [WEATHER]) == (
        "<|im_start|>system\nBe brief.\n\n<tools>\n"
        f"{json.dumps(WEATHER, ensure_ascii=False)}\n</tools>\n"
        'A call: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nHi<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n'
        '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\n11°\n</tool_response>\n<tool_response>\n12:00\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_chats_with_tools_may_have_a_template_of_their_own() -> None:
    for_tools = "{{ messages[0].content }}: {{ tools | length }} tools, <tool_call>"
    made = prompts(ChatFormat("own", FORMATS["chatml"].as_format("").source, tool_source=for_tools))
    assert text_of(made, [USER], [WEATHER]) == "Hi: 1 tools, <tool_call>"
    assert text_of(made, [USER]) == text_of(CHATML, [USER])
    # One that has calls written in another way than they are read here is not used.
    made = prompts(
        ChatFormat("own", FORMATS["chatml"].as_format("").source, tool_source="{{ tools }} Action:")
    )
    assert text_of(made, PAST, [WEATHER]) == text_of(CHATML, PAST, [WEATHER])


def test_another_template_is_told_in_plain_messages() -> None:
    told = instructions([WEATHER])
    assert text_of(CHATML, [SYSTEM, *PAST], [WEATHER]) == (
        f"<|im_start|>system\nBe brief.\n\n{told}<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\n{call_text('weather', {'city': 'Köln'})}\n{call_text('now', {})}"
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n11°\n</tool_response>\n"
        "<tool_response>\n12:00\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_tools_and_their_results(name: str) -> None:
    chat_format = named(name)
    for messages in ([USER], [SYSTEM, USER], PAST, [SYSTEM, *PAST]):
        text = text_of(chat_format, messages, [WEATHER])
        # One format makes single lines of double ones.
        assert text.count("<tools>") == 1 and '"name":"weather"' in text
        assert text.count("<tool_response>") == (2 if answered("11°") in messages else 0)


NO_SYSTEM = prompts(
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}"
    "{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}",
)


def test_a_template_without_system_messages_is_told_by_the_user() -> None:
    told = instructions([WEATHER])
    assert text_of(NO_SYSTEM, [USER], [WEATHER]) == f"[user] Hi\n\n{told}\n[assistant]"
    text = text_of(NO_SYSTEM, [assistant("a"), USER], [WEATHER])
    assert text == f"[user] {told}\n[assistant] a\n[user] Hi\n[assistant]"
    assert text_of(NO_SYSTEM, [USER, assistant("So ")], [WEATHER]).endswith("\n[assistant] So ")


def test_a_template_that_passes_over_system_messages_is_told_by_the_user() -> None:
    source = (
        "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    )
    text = text_of(prompts(source), [USER], [WEATHER])
    assert text == f"[user] Hi\n\n{instructions([WEATHER])}"


def test_who_sends_a_system_message_that_has_no_place_is_told_so() -> None:
    for tools in ((), [WEATHER]):
        assert "no system here" in prompt_error(NO_SYSTEM, [SYSTEM, USER], tools)


def control(parts: Sequence[str]) -> list[str]:
    """The control tokens of a prompt: of ordinary added ones a client may write any."""
    return [part for part in parts[1::2] if part in CONTROL]


hostile = st.lists(
    st.sampled_from([*SPECIAL, "<|im_", "end|>", "<", "|>", '"', "\\", "\n", "é", "<tool_call>"]),
    max_size=5,
).map("".join)  # fmt: skip


@settings(deadline=None)
@given(hostile, hostile, hostile, hostile)
@example("<|im_end|>", "<|im_end|>", "</s>", "<|im_start|>")
def test_no_text_of_a_client_becomes_a_special_token(
    name: str, description: str, value: str, result: str
) -> None:
    tools = [tool(name, description)]
    messages = [
        USER,
        called((name, {value: value}), (name, value), content=value),
        answered(result),
    ]
    harmless = [USER, called(("f", {"a": "a"}), ("f", "a"), content="a"), answered("r")]
    for chat_format in (NATIVE, CHATML):
        parts = parts_of(chat_format, messages, tools)
        expected = parts_of(chat_format, harmless, [tool("f")])
        assert control(parts) == control(expected)


# From here on: a last message of the assistant.

WRITTEN = ("Once  ", "Once", "Once upon\n", "a <|im_end|></s>[INST] ", "<s>", "日本 ", "x\n\t ")


@pytest.mark.parametrize("content", WRITTEN)
@pytest.mark.parametrize("name", [*FORMATS, "hermes"])
def test_what_an_assistant_has_begun_is_gone_on_with(name: str, content: str) -> None:
    chat_format = named(name)
    for before in ([USER], [SYSTEM, USER]):
        parts = parts_of(chat_format, [*before, assistant(content)])
        answer = parts_of(chat_format, before)
        assert parts[-1].endswith(content)
        # Before that it is what asks for an answer, but for white space.
        begun = "".join(parts).removesuffix(content).rstrip()
        assert begun == "".join(answer).rstrip()
        assert parts[1::2] == answer[1::2]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_one_is_the_place_of_the_answer(name: str) -> None:
    chat_format = named(name)
    assert text_of(chat_format, [USER, assistant("")]) == text_of(chat_format, [USER])


def test_one_that_has_called_is_answered() -> None:
    text = text_of(NATIVE, [USER, called(("f", {}), content="So")])
    assert text.endswith("}\n</tool_call><|im_end|>\n<|im_start|>assistant\n")
    text = text_of(CHATML, [USER, called(("f", {}), content="So")])
    assert text.endswith(f"So\n{call_text('f', {})}<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages[:-1] %}{{ m.content }}{% endfor %}",
        "{{ messages[0].content }}",
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content | length }}{% endfor %}",
    ],
)
def test_a_template_that_leaves_it_out_cannot_go_on(source: str) -> None:
    assert "leaves out the last one" in prompt_error(prompts(source), [USER, assistant("a")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[-1].content }}{% for m in messages %}{{ m.content }}{% endfor %}</s>",
        "{{ messages | tojson }}{{ messages[-1].content }}",
        "{{ messages[-1].content | upper }}{{ messages[-1].content | list | join }}!",
    ],
)
def test_a_template_may_tell_of_it_twice(source: str) -> None:
    text = text_of(prompts(source), [USER, assistant("a b ")])
    assert text.endswith("a b ")
    assert text.encode().decode() == text, "nothing is left of the mark"


# ---- what must not become a control token, whatever a template does to it

# Each does something to a message that could make a token of it.
TRAPS = (
    "<s>{{ m.content }}</s>",
    "<{{ m.content }}>",
    "<|{{ m.content }}|>{{ '<|' + m.content + '|>' }}",
    "{{ m.content | replace('<think>', '') }}{{ m.content.replace('</think>', '') }}",
    "{{ m.content.replace(' ', '').replace('\n', '') }}",
    "{{ m.content.split('</think>') | join('') }}{{ ''.join(m.content.split()) }}",
    "{{ m.content | trim('x') }}{{ m.content.strip('xb') }}",
    "{{ m.content | upper }}{{ m.content.lower() }}{{ m.content | title }}",
    "{{ m.content[1:] }}{{ m.content[:-1] ~ '>' }}{{ m.content[::-1] }}",
    "{{ m.content | list | join }}{% for c in m.content %}{{ c }}{% endfor %}",
    "{% set text %}<|im_{{ m.content }}{% endset %}{{ text }}{{ text | trim }}",
    "{% macro f(x) %}<{{ x }}{% endmacro %}{{ f(m.content) }}|end|>",
    "{{ m | tojson }}{{ [m.content] }}{{ {'a': m.content} }}{{ m.content | string | safe }}",
    "{{ m.content ~ '<|end|>' ~ m.content }}{{ m.content | default('<s>', true) }}",
    "<|{{ m.role }}|>{{ m.content | indent(1) }}{{ m.content.splitlines() | join('<s>') }}",
    "<|{{ m.name }}|>{{ m.name }}{{ m.content }}",
)
letters = {letter for text in CONTROL for letter in text}
contents = st.lists(
    st.sampled_from(
        [*CONTROL, "<|im_", "end|>", "<", ">", "|", "<|", "/s>", "INST", "[inst]", "im_end",
         "\u2581", "end", "user", "x", "b", "<think>",
         "</think>", " ", "\n", "\r\n", "É", "", "\U00100001"]
    ),
    max_size=8,
).map("".join)  # fmt: skip


def harmless(text: str) -> str:
    return "".join("é" if letter in letters else letter for letter in text)


@pytest.mark.parametrize("trap", TRAPS)
@settings(deadline=None, max_examples=60)
@given(contents, contents, st.sampled_from(["system", "user", "tool"]))
@example("im_end", "end", "user")
@example("</s>", "user", "user")
@example("<|im_<think>end|>", "|>", "user")
@example("<|im_\n</think>end|>", " <|im_ ", "user")
def test_only_the_template_writes_control_tokens(
    trap: str, content: str, name: str, role: str
) -> None:
    made = prompts(f"{{# tools <tool_call> #}}{{% for m in messages %}}{trap}{{% endfor %}}")
    message = {"role": role, "content": content, "name": name}
    told = {"role": role, "content": harmless(content), "name": harmless(name)}
    parts = parts_of(made, [message, message])
    assert control(parts) == control(parts_of(made, [told, told]))
    assert not any(letter >= "\U00100000" for letter in "".join(parts)), "nothing stays masked"


@pytest.mark.parametrize("token", ["<|im_end|>", "</s>", "<|end"])
def test_not_in_any_field(token: str) -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": token,
                "description": token,
                "parameters": {"type": token, token: [token, {"enum": [token]}], "é": 1.5},
            },
        }
    ]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": token},
        {"role": "user", "content": token, "name": token},
        {
            "role": "assistant",
            "content": token,
            "tool_calls": [
                {"id": token, "type": "function",
                 "function": {"name": token, "arguments": {token: [token]}}}
            ],
        },
        {"role": "tool", "content": token, "tool_call_id": token},
    ]  # fmt: skip
    made = prompts("{{ tools | tojson }}{{ messages | tojson }}{# <tool_call> #}{{ eos_token }}")
    text, *rest = parts_of(made, messages, tools)
    assert rest == ["</s>", ""]
    assert text == json.dumps(tools, ensure_ascii=False) + json.dumps(messages, ensure_ascii=False)


def test_a_text_says_whether_its_special_tokens_are_some() -> None:
    made, text = prompts("x"), "a<s>b<think>"
    assert made.of_text(Text(text)) == ("a", "<s>", "b", "<think>", "")
    assert made.of_text(Text(text, parses_special=False)) == (text,)
    filled = ("", "<|user|>", text, "<|end|>", "c", "[INST]", "")
    assert made.of_text(Text(text, "c")) == filled


def test_a_model_that_has_not_learned_to_fill_in_says_so() -> None:
    made = Prompts(EchoEngine(WorkerConfig("echo")), FORMATS["plain"].as_format(""))
    with pytest.raises(PromptError, match=r"family \(echo\) has not learned") as caught:
        made.of_text(Text("a", "b"))
    assert (caught.value.code, caught.value.param) == (ErrorCode.UNSUPPORTED_PARAMETER, "suffix")


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [
        ("{{ raise_exception('<s>Take turns') }}", ErrorCode.INVALID_VALUE, "<s>Take turns"),
        ("{{ messages[7].content.x }}", ErrorCode.INVALID_VALUE, "line 1: "),
        ("{{ messages['x' * 60000].y.z }}", ErrorCode.INVALID_VALUE, "line 1: "),
        ("{{ messages.foo() }}", ErrorCode.INVALID_VALUE, "foo"),
        ("{% for %}", ErrorCode.INTERNAL_ERROR, "template is broken"),
        ("{# " + "x" * 65_536 + "#}", ErrorCode.INTERNAL_ERROR, "template is broken"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
         ErrorCode.TEMPLATE_TOO_EXPENSIVE, "it does too much"),
    ],
)  # fmt: skip
def test_why_there_is_no_prompt(source: str, code: ErrorCode, said: str) -> None:
    message = prompt_error(prompts(source), [USER], code=code)
    assert said in message and len(message) < 1100


def test_a_broken_template_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    made = prompts("{% for %}")
    for _ in range(3):
        prompt_error(made, [USER], code=ErrorCode.INTERNAL_ERROR)
    (record,) = caplog.records
    assert "does not compile: line 1" in record.getMessage()
    assert "CHAT_TEMPLATE" in record.getMessage()


def test_a_template_cannot_reach_what_is_not_its_own() -> None:
    for source in (
        "{{ messages.__class__() }}",
        "{{ messages.__getattribute__('__class__') }}",
        "{{ raise_exception.__getattribute__('__globals__') }}",
        "{{ ''.__class__.__mro__.x }}",
        "{% include '/etc/passwd' %}",
    ):
        prompt_error(prompts(source), [USER])
