"""From a conversation to a prompt: tools, and last messages that are gone on with."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.chat.conversation import prompt_of
from gateway.chat.formats import FORMATS, ChatFormat
from gateway.chat.messages import CalledTool, ChatMessage
from gateway.chat.tools import call_text, instructions
from gateway.errors import ApiError
from shared.errors import ErrorCode
from tests.unit.gateway.chat.reference import MODEL, SPECIAL

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
NATIVE = ChatFormat("hermes", HERMES)
CHATML = FORMATS["chatml"].as_format("")
USER = ChatMessage(role="user", content="Hi")
SYSTEM = ChatMessage(role="system", content="Be brief.")


def tool(name: str, description: str = "") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": description}}


def called(*calls: tuple[str, Any], content: str = "") -> ChatMessage:
    made = [CalledTool(type="function", function={"name": n, "arguments": a}) for n, a in calls]
    return ChatMessage(role="assistant", content=content, tool_calls=made)


def answered(content: str) -> ChatMessage:
    return ChatMessage(role="tool", content=content, tool_call_id="1")


def assistant(content: str) -> ChatMessage:
    return ChatMessage(role="assistant", content=content)


def text_of(
    chat_format: ChatFormat, messages: Sequence[ChatMessage], tools: Sequence[Any] = ()
) -> str:
    return "".join(prompt_of(chat_format, MODEL, messages, tools))


def refusal(chat_format: ChatFormat, messages: Sequence[ChatMessage], tools: Any = ()) -> str:
    with pytest.raises(ApiError) as caught:
        prompt_of(chat_format, MODEL, messages, tools)
    assert (caught.value.code, caught.value.param) == (ErrorCode.INVALID_VALUE, "messages")
    return caught.value.message


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


def test_it_is_told_of_none_where_there_are_none() -> None:
    assert "<tools>" not in text_of(NATIVE, PAST)
    assert "<tool_response>\n11°" in text_of(NATIVE, PAST)


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
    chat_format = FORMATS[name].as_format("")
    for messages in ([USER], [SYSTEM, USER], PAST, [SYSTEM, *PAST]):
        text = text_of(chat_format, messages, [WEATHER])
        # One format makes single lines of double ones.
        assert text.count("<tools>") == 1 and '"name":"weather"' in text
        assert text.count("<tool_response>") == (2 if answered("11°") in messages else 0)


NO_SYSTEM = ChatFormat(
    "none",
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
    text = text_of(ChatFormat("deaf", source), [USER], [WEATHER])
    assert text == f"[user] Hi\n\n{instructions([WEATHER])}"


def test_who_sends_a_system_message_that_has_no_place_is_told_so() -> None:
    for tools in ((), [WEATHER]):
        assert "no system here" in refusal(NO_SYSTEM, [SYSTEM, USER], tools)


def test_another_fault_of_the_messages_is_said_with_tools_too() -> None:
    llama = FORMATS["llama-2"].as_format("")
    assert "out of turn" in refusal(llama, [USER, USER, USER], [WEATHER])


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
        parts = prompt_of(chat_format, MODEL, messages, tools)
        expected = prompt_of(chat_format, MODEL, harmless, [tool("f")])
        assert parts[1::2] == expected[1::2]


# From here on: a last message of the assistant.

WRITTEN = ("Once  ", "Once", "Once upon\n", "a <|im_end|></s>[INST] ", "<s>", "日本 ", "x\n\t ")


@pytest.mark.parametrize("content", WRITTEN)
@pytest.mark.parametrize("name", [*FORMATS, "hermes"])
def test_what_an_assistant_has_begun_is_gone_on_with(name: str, content: str) -> None:
    chat_format = NATIVE if name == "hermes" else FORMATS[name].as_format("")
    for before in ([USER], [SYSTEM, USER]):
        parts = prompt_of(chat_format, MODEL, [*before, assistant(content)])
        answer = prompt_of(chat_format, MODEL, before)
        assert parts[-1].endswith(content)
        # Before that it is what asks for an answer, but for white space.
        begun = "".join(parts).removesuffix(content).rstrip()
        assert begun == "".join(answer).rstrip()
        assert parts[1::2] == answer[1::2]


@pytest.mark.parametrize("name", FORMATS)
def test_an_empty_one_is_the_place_of_the_answer(name: str) -> None:
    chat_format = FORMATS[name].as_format("")
    assert text_of(chat_format, [USER, assistant("")]) == text_of(chat_format, [USER])


def test_one_that_has_called_is_answered() -> None:
    text = text_of(NATIVE, [USER, called(("f", {}), content="So")])
    assert text.endswith("}\n</tool_call><|im_end|>\n<|im_start|>assistant\n")
    text = text_of(CHATML, [USER, called(("f", {}), content="So")])
    assert text.endswith(f"So\n{call_text('f', {})}<|im_end|>\n<|im_start|>assistant\n")


def test_one_that_goes_on_is_told_of_tools_too() -> None:
    for chat_format in (NATIVE, CHATML):
        text = text_of(chat_format, [USER, assistant("So ")], [WEATHER])
        assert "<tools>" in text and text.endswith("<|im_start|>assistant\nSo ")


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
    assert "leaves out the last one" in refusal(ChatFormat("t", source), [USER, assistant("a")])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[-1].content }}{% for m in messages %}{{ m.content }}{% endfor %}</s>",
        "{{ messages | tojson }}{{ messages[-1].content }}",
        "{{ messages[-1].content | upper }}{{ messages[-1].content | list | join }}!",
    ],
)
def test_a_template_may_tell_of_it_twice(source: str) -> None:
    text = text_of(ChatFormat("t", source), [USER, assistant("a b ")])
    assert text.endswith("a b ")
    assert text.encode().decode() == text, "nothing is left of the mark"


def test_a_template_that_refuses_it_may_quote_it() -> None:
    source = "{{ raise_exception('no ' ~ messages[1].content) if messages[1] }}"
    assert refusal(ChatFormat("t", source), [USER, assistant("a b")]).endswith(": no a b")
