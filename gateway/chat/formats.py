"""The chat formats that are known by name, as the authors of the models published them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How a conversation becomes a prompt, and how an answer ends.

    Attributes:
        name: what people call it.
        source: a Jinja template.
        stop: an answer ends before any of these strings.
        stop_tokens: an answer ends with any of these tokens, as with the model's own end tokens.
        origin: where it comes from, for people.
    """

    name: str
    source: str
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True)
class NamedFormat:
    """A format of the table.

    Attributes:
        name: what to say to get it.
        models: which models want it, by the names of their files or repositories.
        template: the file in ``templates/``, if that has another name.
        stop: as in `ChatFormat`.
        stop_tokens: as in `ChatFormat`.
    """

    name: str
    models: str | None = None
    template: str | None = None
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[str, ...] = ()
    pattern: re.Pattern[str] | None = field(init=False)

    def __post_init__(self) -> None:
        """Compile the pattern."""
        pattern = self.models and re.compile(self.models, re.IGNORECASE)
        object.__setattr__(self, "pattern", pattern)

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
        stop_tokens=("<|endoftext|>",),
    ),
    # HuggingFaceH4/starchat-beta: its card, and chat/dialogues.py of bigcode-project/starcoder.
    NamedFormat("starchat", r"starchat(?!2)", stop_tokens=("<|end|>", "<|endoftext|>")),
    # tiiuae/falcon-7b-instruct: the template of its tokenizer. Falcon 3 and later bring their own.
    NamedFormat(
        "falcon-instruct",
        r"falcon(?!3|-?h1|-?mamba|-?e-).*instruct",
        stop=("\nUser:",),
        stop_tokens=("<|endoftext|>",),
    ),
    # mosaicml/mpt-7b-chat and mpt-30b-chat: the template of their tokenizer, with the end of the
    # system turn that it forgets and that llm-foundry, which trained the models, writes.
    NamedFormat(
        "mpt-chat", r"(?<![a-z])mpt(?![a-z]).*chat", stop_tokens=("<|im_end|>", "<|endoftext|>")
    ),
    # mosaicml/mpt-30b-instruct and mpt-7b-8k-instruct: "Formatting" in their cards.
    NamedFormat(
        "mpt-30b-instruct",
        r"(?<![a-z])mpt[-_]?(30b|7b[-_]?8k).*instruct",
        stop=("\n###Instruction",),
        stop_tokens=("<|endoftext|>",),
    ),
    # mosaicml/mpt-7b-instruct: "Formatting" in its card.
    NamedFormat(
        "mpt-instruct",
        r"(?<![a-z])mpt(?![a-z]).*instruct",
        stop=("\n### Instruction:",),
        stop_tokens=("<|endoftext|>",),
    ),
    # lm-sys/vicuna-7b-v1.1: `vicuna_v1.1` in FastChat's fastchat/conversation.py.
    NamedFormat("vicuna", r"vicuna", stop=("\nUSER:",)),
    # meta-llama/Llama-2-7b-chat: `chat_completion` in llama/generation.py. Code Llama takes the
    # same, except for its 70B.
    NamedFormat("llama-2", r"llama[-_]?2(?![0-9]).*chat|code[-_]?llama(?!.*70b).*instruct"),
    # tatsu-lab/stanford_alpaca: `prompt_no_input` in train.py.
    NamedFormat("alpaca", r"alpaca(?![-_]?2)", stop=("\n### Instruction:",)),
    # openai/openai-python v0.27: chatml.md.
    NamedFormat("chatml", r"chat[-_]?ml", stop_tokens=("<|im_end|>", "<|endoftext|>")),
    NamedFormat("plain", stop=("\nuser:", "\nsystem:", "\ntool:")),
)

FORMATS = {known.name: known for known in _FORMATS}
"""The table, by name."""


def recognised(model_name: str) -> NamedFormat | None:
    """The format that a model of this name wants, if the name tells."""
    for known in _FORMATS:
        if known.pattern is not None and known.pattern.search(model_name):
            return known
    return None
