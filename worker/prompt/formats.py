"""Which chat format a model gets: the one that was asked for, else the file's own, else by name.

The formats that are known by name are as the authors of the models published them.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shared.config import WorkerConfig
from shared.errors import UsageError
from shared.model_info import PLAIN_ORIGIN
from worker.prompt.render import MAX_SOURCE, ChatTemplate

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a conversation becomes a prompt, and how an answer ends."""

    name: str
    #: a Jinja template
    source: str
    #: an answer ends before any of these strings
    stop: tuple[str, ...] = ()
    #: texts that end a turn; as tokens of the model they end an answer anyway
    stop_tokens: tuple[str, ...] = ()
    #: where it comes from, for people
    origin: str = ""
    #: the template of chats with tools, where it is another
    tool_source: str | None = None

    def stops(self, special_tokens: Collection[str]) -> tuple[str, ...]:
        """The strings that end an answer of a model with these special tokens."""
        return (*self.stop, *(text for text in self.stop_tokens if text not in special_tokens))


@dataclass(frozen=True, slots=True)
class NamedFormat:
    """A format of the table."""

    name: str
    #: which models want it: a pattern that is found in the name of their file or repository
    models: str | None = None
    #: the file in ``templates/``, if that has another name
    template: str | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()

    def as_format(self, origin: str) -> ChatFormat:
        """The format itself, with its template."""
        source = (_TEMPLATES / f"{self.template or self.name}.jinja").read_text("utf-8")
        return ChatFormat(self.name, source, self.stop, self.stop_tokens, origin)


# Where a prompt below is said to be published, the one that a template makes equals it to the
# letter for one question. What authors do not say (further turns, a system text) continues in the
# same frame. The first pattern that is found in a name wins.
_FORMATS = (
    # WizardLM/WizardCoder-15B-V1.0: its card, and WizardCoder/src/inference_wizardcoder.py.
    NamedFormat(
        "wizardcoder",
        r"wizard[-_]?coder",
        template="alpaca",
        stop=("\n### Instruction:",),
    ),
    # HuggingFaceH4/starchat-beta: its card, and chat/dialogues.py of bigcode-project/starcoder.
    NamedFormat("starchat", r"starchat(?!2)", stop_tokens=("<|end|>",)),
    # tiiuae/falcon-7b-instruct: the template of its tokenizer. Falcon 3 and later bring their own.
    NamedFormat(
        "falcon-instruct",
        r"falcon(?!3|-?h1|-?mamba|-?e-).*instruct",
        stop=("\nUser:",),
    ),
    # mosaicml/mpt-7b-chat and mpt-30b-chat: the template of their tokenizer, with the end of the
    # system turn that it forgets and that llm-foundry, which trained the models, writes.
    NamedFormat("mpt-chat", r"(?<![a-z])mpt(?![a-z]).*chat", stop_tokens=("<|im_end|>",)),
    # mosaicml/mpt-30b-instruct and mpt-7b-8k-instruct: "Formatting" in their cards.
    NamedFormat(
        "mpt-30b-instruct",
        r"(?<![a-z])mpt[-_]?(30b|7b[-_]?8k).*instruct",
        stop=("\n###Instruction",),
    ),
    # mosaicml/mpt-7b-instruct: "Formatting" in its card.
    NamedFormat(
        "mpt-instruct",
        r"(?<![a-z])mpt(?![a-z]).*instruct",
        stop=("\n### Instruction:",),
    ),
    # lm-sys/vicuna-7b-v1.1: `vicuna_v1.1` in FastChat's fastchat/conversation.py. v0, stable-vicuna
    # and gpt4-x-vicuna have other formats.
    NamedFormat(
        "vicuna",
        r"(?<!stable[-_])(?<!x[-_])vicuna(?!.*(?<!ggml)v0)",
        stop=("\nUSER:",),
    ),
    # meta-llama/Llama-2-7b-chat: `chat_completion` in llama/generation.py. Code Llama takes the
    # same, except for its 70B.
    NamedFormat("llama-2", r"llama[-_]?2(?![0-9]).*chat|code[-_]?llama(?!.*70b).*instruct"),
    # tatsu-lab/stanford_alpaca: `prompt_no_input` in train.py.
    NamedFormat("alpaca", r"alpaca(?![-_]?2)", stop=("\n### Instruction:",)),
    # openai/openai-python v0.27: chatml.md.
    NamedFormat("chatml", r"chat[-_]?ml", stop_tokens=("<|im_end|>",)),
    NamedFormat("plain", stop=("\nuser: ", "\nsystem: ", "\ntool: ")),
)

FORMATS = {known.name: known for known in _FORMATS}
"""The table, by name."""


def recognised(model_name: str) -> NamedFormat | None:
    """The format that a model of this name wants, if the name tells."""
    for known in _FORMATS:
        if known.models and re.search(known.models, model_name, re.IGNORECASE):
            return known
    return None


def choose_format(
    config: WorkerConfig, own: str | None, own_for_tools: str | None = None
) -> ChatFormat:
    """The format of a model whose file has these templates; its ``origin`` says why this one.

    Raises:
        UsageError: as `load_chat_template`.
    """
    if config.chat_template is not None:
        return load_chat_template(config.chat_template)
    if own:
        return ChatFormat("own", own, origin="the model's file", tool_source=own_for_tools)
    for name in (Path(config.file_name).name, config.model_id):
        if known := recognised(name):
            return known.as_format(f"the name {name}")
    return FORMATS["plain"].as_format(PLAIN_ORIGIN)


def load_chat_template(setting: str) -> ChatFormat:
    """The format that the setting ``CHAT_TEMPLATE`` asks for: a name, or the path of a Jinja file.

    Raises:
        UsageError: it is neither, or the file holds no template.
    """
    if known := FORMATS.get(setting.lower()):
        return known.as_format("CHAT_TEMPLATE")
    path = Path(setting).expanduser()
    if not path.is_file():
        names = ", ".join(FORMATS)
        raise UsageError(
            f"CHAT_TEMPLATE={setting!r} is not allowed; it must be a Jinja file or one of: {names}"
        )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            source = file.read(MAX_SOURCE + 1)
        ChatTemplate(source)
    except OSError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: it is not UTF-8 text") from error
    except ValueError as error:
        raise UsageError(f"CHAT_TEMPLATE={setting}: {error}") from error
    return ChatFormat(path.name, source, origin="CHAT_TEMPLATE")
