"""A request that knows no dialect: what every endpoint's body becomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from shared.grammar import GrammarKind
from shared.messages import Prepare, Text
from shared.sampling import SamplingParams

Form: TypeAlias = Literal["stream", "object", "text"]
"""How an answer is given; ``text`` is the bare continuation as a JSON string."""


@dataclass(frozen=True, slots=True)
class IdsPrompt:
    """Token ids, not checked: that takes the model."""

    ids: Sequence[int]
    param: str = "prompt"  #: the field of the request, for errors


Prompt: TypeAlias = Prepare | IdsPrompt
"""What goes before an answer; a `Prepare` has no id yet."""


def text_prompt(text: str, param: str, suffix: str = "", *, parses_special: bool = True) -> Prepare:
    return Prepare("", Text(text, suffix, parses_special), param)


@dataclass(frozen=True, slots=True)
class Limit:
    """The most tokens to generate."""

    tokens: int | None  #: None for the rest of the context
    is_clamped: bool  #: what does not fit into the context is cut instead of refused


@dataclass(frozen=True, slots=True)
class WantedForm:
    """One thing that a request binds its answer to; a request may not have two."""

    param: str
    kind: GrammarKind
    source: Any  #: a schema, a list of choices, or the text of an expression or a grammar
    path: str = ""  #: where the source is, if it is not `param` itself


@dataclass(frozen=True, slots=True)
class Function:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None  #: a JSON schema
    is_strict: bool = False  #: a schema that cannot be followed in all it says is refused
    param: str = ""  #: where its schema is in the request

    @property
    def schema(self) -> dict[str, Any]:
        """The schema of the arguments; a function without one takes none."""
        if self.parameters is None:
            return {"type": "object", "properties": {}, "additionalProperties": False}
        return {"type": "object", **self.parameters}

    @property
    def shown(self) -> Mapping[str, Any]:
        """The function as chat templates see it."""
        text = {} if self.description is None else {"description": self.description}
        return {
            "type": "function",
            "function": {"name": self.name, **text, "parameters": self.schema},
        }


@dataclass(frozen=True, slots=True)
class ToolUse:
    """What an answer may do with the tools of its request."""

    functions: tuple[Function, ...] = ()  #: those that it may call
    is_required: bool = False  #: whether there has to be a call
    is_parallel: bool = True  #: whether there may be several


NO_TOOLS = ToolUse()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is to be generated."""

    model: str | None  #: None for whichever is served
    prompts: tuple[Prompt, ...]
    n: int = 1  #: choices for each prompt
    candidates: int = 1  #: generations for each prompt, of which the likeliest `n` are given
    count_param: str = "n"  #: the field that `candidates` comes from
    sampling: SamplingParams = field(default_factory=SamplingParams)  #: of the first choice
    limit: Limit = Limit(None, True)
    stop: tuple[str, ...] = ()  #: the text ends before any of these, as the client sees it
    stop_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignores_eog: bool = False
    constraints: tuple[WantedForm, ...] = ()
    tools: ToolUse = NO_TOOLS
    logprobs: int | None = None  #: alternatives of each token to tell of; None tells nothing
    echoes: bool = False  #: the text begins with the prompt
    embeds: bool = False  #: the answer is an embedding of each prompt
    dimensions: int | None = None  #: of the embeddings; None for all
    form: Form = "object"
    include_usage: bool = False  #: a stream ends with the usage
    options: Any = None  #: for the writer of the request's own dialect
