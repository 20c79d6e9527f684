"""The chat formats, to the letter."""

from pathlib import Path

import pytest

from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.model_info import PLAIN_ORIGIN
from tests.unit.worker.prompt.vocabularies import prompt_error, prompts, text_of
from worker.prompt.formats import (
    FORMATS,
    ChatFormat,
    choose_format,
    load_chat_template,
    recognised,
)

QUESTION = [("user", "What is 1+1?")]
CHAT = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye\n\nnow")]

_TASK = (
    "Below is an instruction that describes a task."
    " Write a response that appropriately completes the request."
)
_ALPACA = (
    f"{_TASK}\n\n### Instruction:\nWhat is 1+1?\n\n### Response:",
    "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHello.\n\n"
    "### Instruction:\nBye\n\nnow\n\n### Response:",
)
_CHATML_CHAT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye\n\nnow<|im_end|>\n"
    "<|im_start|>assistant\n"
)
# format: the prompts for QUESTION and for CHAT
PROMPTS = {
    "wizardcoder": _ALPACA,
    "starchat": (
        "<|system|>\n<|end|>\n<|user|>\nWhat is 1+1?<|end|>\n<|assistant|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n"
        "<|user|>\nBye\n\nnow<|end|>\n<|assistant|>",
    ),
    "falcon-instruct": (
        "\n\nUser: What is 1+1?\n\nAssistant:",
        "Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Bye\nnow\n\nAssistant:",
    ),
    "mpt-chat": (
        "<|im_start|>system\nA conversation between a user and an LLM-based AI assistant. The"
        " assistant gives helpful and honest answers.<|im_end|>\n<|im_start|>user\nWhat is 1+1?"
        "<|im_end|>\n<|im_start|>assistant\n",
        _CHATML_CHAT,
    ),
    "mpt-30b-instruct": (
        f"{_TASK}\n\n###Instruction\nWhat is 1+1?\n\n### Response\n",
        "Be brief.\n\n###Instruction\nHi\n\n### Response\nHello.\n\n"
        "###Instruction\nBye\n\nnow\n\n### Response\n",
    ),
    "mpt-instruct": (
        f"{_TASK}\n### Instruction:\nWhat is 1+1?\n### Response:\n",
        "Be brief.\n### Instruction:\nHi\n### Response:\nHello.\n"
        "### Instruction:\nBye\n\nnow\n### Response:\n",
    ),
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant"
        " gives helpful, detailed, and polite answers to the user's questions."
        " USER: What is 1+1? ASSISTANT:",
        "Be brief. USER: Hi ASSISTANT: Hello.</s>USER: Bye\n\nnow ASSISTANT:",
    ),
    "llama-2": (
        "<s>[INST] What is 1+1? [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s>"
        "<s>[INST] Bye\n\nnow [/INST]",
    ),
    "alpaca": _ALPACA,
    "chatml": (
        "<|im_start|>user\nWhat is 1+1?<|im_end|>\n<|im_start|>assistant\n",
        _CHATML_CHAT,
    ),
    "plain": (
        "user: What is 1+1?\nassistant:",
        "system: Be brief.\nuser: Hi\nassistant: Hello.\nuser: Bye\n\nnow\nassistant:",
    ),
}


def prompt(name: str, turns: list[tuple[str, str]]) -> str:
    messages = [{"role": role, "content": content} for role, content in turns]
    return text_of(prompts(FORMATS[name].as_format("")), messages)


def test_these_are_all_formats() -> None:
    assert list(PROMPTS) == list(FORMATS)


@pytest.mark.parametrize("name", PROMPTS)
def test_one_question(name: str) -> None:
    assert prompt(name, QUESTION) == PROMPTS[name][0]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_chat_with_a_system_text(name: str) -> None:
    assert prompt(name, CHAT) == PROMPTS[name][1]


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        ("llama-2", [("system", "a")]),
        ("llama-2", [("system", "a"), ("system", "b"), ("user", "c")]),
        ("llama-2", [("user", "a"), ("user", "b"), ("user", "c")]),
        ("llama-2", [("assistant", "a")]),
        *(
            (name, [("user", "a"), ("system", "b"), ("user", "c")])
            for name in FORMATS
            if name not in ("plain", "chatml", "llama-2")
        ),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(name: str, turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    assert "this format knows" in prompt_error(prompts(FORMATS[name].as_format("")), messages)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("WizardCoder-15B-1.0.ggmlv3.q4_0.bin", "wizardcoder"),
        ("TheBloke/WizardCoder-Python-13B-V1.0-GGUF", "wizardcoder"),
        ("wizard_coder.bin", "wizardcoder"),
        ("starchat-beta.ggmlv3.q4_0.bin", "starchat"),
        ("HuggingFaceH4/starchat2-15b-v0.1", None),
        ("falcon-7b-instruct.ggccv1.q4_0.bin", "falcon-instruct"),
        ("TheBloke/falcon-40b-instruct-GGML", "falcon-instruct"),
        ("tiiuae/Falcon3-7B-Instruct-GGUF", None),
        ("falcon-7b.bin", None),
        ("mpt-7b-chat.ggmlv0.q4_0.bin", "mpt-chat"),
        ("TheBloke/mpt-30B-chat-GGML", "mpt-chat"),
        ("mpt-7b-instruct.ggmlv0.q4_0.bin", "mpt-instruct"),
        ("TheBloke/MPT-7B-Instruct-GGML", "mpt-instruct"),
        ("mpt-30b-instruct.ggmlv0.q4_0.bin", "mpt-30b-instruct"),
        ("mpt-7b-8k-instruct.bin", "mpt-30b-instruct"),
        ("mpt-7b-storywriter.bin", None),
        ("prompt-7b-chat.bin", None),
        ("vicuna-7b-v1.5.Q4_K_M.gguf", "vicuna"),
        ("vicuna-7b-1.1.ggmlv0.q4_0.bin", "vicuna"),
        ("eachadea/ggml-vicuna-13b-1.1", "vicuna"),
        ("stable-vicuna-13B.ggmlv3.q4_0.bin", None),
        ("stable_vicuna.bin", None),
        ("gpt4-x-vicuna-13B.ggmlv3.q4_0.bin", None),
        ("lmsys/vicuna-13b-delta-v0", None),
        ("vicuna-13b-v0.bin", None),
        ("Llama-2-7b-chat.Q4_K_M.gguf", "llama-2"),
        ("llama2-13b-chat.gguf", "llama-2"),
        ("Llama-2-7b.gguf", None),
        ("CodeLlama-7b-Instruct.Q4_K_M.gguf", "llama-2"),
        ("codellama-70b-instruct.gguf", None),
        ("CodeLlama-7b-Python.gguf", None),
        ("alpaca-7b.gguf", "alpaca"),
        ("something-chatml.gguf", "chatml"),
        ("gpt2.bin", None),
        ("plain.bin", None),
    ],
)
def test_a_model_is_recognised_by_its_name(model: str, name: str | None) -> None:
    found = recognised(model)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("name", "stop", "stop_tokens"),
    [
        ("starchat", (), ("<|end|>",)),
        ("mpt-chat", (), ("<|im_end|>",)),
        ("chatml", (), ("<|im_end|>",)),
        ("wizardcoder", ("\n### Instruction:",), ()),
        ("falcon-instruct", ("\nUser:",), ()),
        ("plain", ("\nuser: ", "\nsystem: ", "\ntool: "), ()),
    ],
)
def test_what_ends_an_answer(
    name: str, stop: tuple[str, ...], stop_tokens: tuple[str, ...]
) -> None:
    made = FORMATS[name].as_format("because")
    assert (made.name, made.stop, made.stop_tokens) == (name, stop, stop_tokens)
    assert made.origin == "because"


def test_what_ends_a_turn_is_a_string_where_it_is_no_token() -> None:
    made = ChatFormat("x", "", stop=("\nUser:",), stop_tokens=("<|end|>", "<|im_end|>"))
    assert made.stops(()) == ("\nUser:", "<|end|>", "<|im_end|>")
    assert made.stops(("<s>", "<|end|>")) == ("\nUser:", "<|im_end|>")
    assert FORMATS["llama-2"].as_format("").stops(()) == ()


def test_the_stops_of_the_plain_format_are_what_its_template_writes() -> None:
    written = prompt("plain", [(role, "x") for role in ("assistant", "user", "system")])
    stops = [stop for stop in FORMATS["plain"].stop if "tool" not in stop]
    assert len(stops) == 2 and all(stop in written for stop in stops)


# ---- which format a model gets


def config(
    file: str = "model.bin", model_id: str = "model", template: str | None = None
) -> WorkerConfig:
    return WorkerConfig(
        "echo",
        file_name=f"/wizardcoder/{file}",
        model_id=model_id,
        chat_template=template,
    )


OWN = "{{ 'own' }}"


def test_the_setting_comes_first() -> None:
    made = choose_format(config("starchat.bin", template="Vicuna"), OWN)
    assert (made.name, made.origin) == ("vicuna", "CHAT_TEMPLATE")


def test_the_files_own_comes_second() -> None:
    made = choose_format(config("starchat.bin"), OWN)
    assert (made.name, made.source, made.origin) == ("own", OWN, "the model's file")
    assert (made.stop, made.stop_tokens) == ((), ())
    assert choose_format(config("starchat.bin"), "").name == "starchat"
    assert choose_format(config(), OWN, "{{ tools }}").tool_source == "{{ tools }}"
    assert choose_format(config(template="vicuna"), OWN, "{{ tools }}").tool_source is None


def test_the_name_of_the_file_comes_third_then_the_models_and_at_last_it_is_plain() -> None:
    made = choose_format(config("starchat-beta.bin", "org/vicuna"), None)
    assert (made.name, made.origin) == ("starchat", "the name starchat-beta.bin")
    made = choose_format(config(model_id="org/vicuna"), None)
    assert (made.name, made.origin) == ("vicuna", "the name org/vicuna")
    made = choose_format(config(), None)
    assert (made.name, made.origin) == ("plain", PLAIN_ORIGIN)


def test_a_setting_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my.jinja"
    file.write_bytes("{{ messages }}\r\né".encode())
    made = load_chat_template(str(file))
    assert (made.name, made.source) == ("my.jinja", "{{ messages }}\r\né")
    assert (made.stop, made.stop_tokens, made.origin) == ((), (), "CHAT_TEMPLATE")


def test_a_setting_that_is_neither_lists_the_names(tmp_path: Path) -> None:
    for setting in ("wizard", str(tmp_path / "none.jinja"), str(tmp_path)):
        with pytest.raises(UsageError) as caught:
            load_chat_template(setting)
        assert str(caught.value).startswith(f"CHAT_TEMPLATE={setting!r} is not allowed")
        assert str(caught.value).endswith(", ".join(FORMATS))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n{% if %}", "line 2: "),
        (b"{{ x", "line 1: unexpected end"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (b"x" * 65_537, "it has 65537 characters, more than 65536"),
    ],
)
def test_a_file_that_is_no_template_says_why(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "my.jinja"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_chat_template(str(file))
    assert str(caught.value).startswith(f"CHAT_TEMPLATE={file}: {said}")
