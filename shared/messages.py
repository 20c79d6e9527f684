"""Every message between the gateway and its processes; `shared.encoding` has their one encoding.

Down a pipe go commands: `Generate`, `Save`, `Cancel` and `SetThreads` to a worker, `Prepare` and
`Detokenize` to a preparer, `Shutdown` to either. Up another come events: `Ready`, `LoadFailed`,
`Progress`, `Prefilled`, `Delta`, `Finished`, `Failed`, `Saved`, `Prepared`. Every `Generate` is
answered by exactly one terminal event (`Finished` or `Failed`), in the order
``Prefilled, Delta*, terminal``; every `Save` by one `Saved`, every `Prepare` and `Detokenize` by
one `Prepared` or `Failed`.

The zygote says `Ready` or `LoadFailed`, then takes `Warm`, which it answers by `Warmed` or
`LoadFailed`, and `Fork`, which it answers by `Forked` and in the end by `Ended`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from shared.grammar import Grammar
from shared.logprobs import TokenLogprobs
from shared.model_info import ModelInfo as ModelInfo
from shared.sampling import SamplingParams
from shared.saved_prefix import Save as Save
from shared.saved_prefix import Saved as Saved
from shared.saved_prefix import SavedPrefix
from shared.times import Times


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, and the tools that it may use, as JSON that a chat template sees."""

    messages: tuple[Mapping[str, Any], ...]
    #: each as OpenAI's API has it
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """A text to be continued or, with a suffix, to be filled in behind."""

    text: str
    suffix: str = ""
    #: texts of special tokens in it are these tokens; never with a suffix
    parses_special: bool = True


@dataclass(frozen=True, slots=True)
class Prepare:
    """Say which token ids a prompt has, and try whether a grammar can be used."""

    request_id: str
    #: None only tries the grammar
    prompt: Chat | Text | None = None
    #: what the prompt is called in the request, for errors
    param: str = "prompt"
    #: the token that begins a sequence is put in front, where the model has one
    begins: bool = True
    #: the answer has the text of the prompt
    wants_text: bool = False
    #: the answer has the text of each token
    wants_pieces: bool = False
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Detokenize:
    """Say which text token ids have, all of them within the vocabulary."""

    request_id: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate one completion."""

    request_id: str
    #: the prompt, all of it within the vocabulary
    ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    #: the most tokens to generate; None means up to the end of the context
    max_tokens: int | None = None
    #: generation ends before any of these strings; they are never part of the text
    stop: tuple[str, ...] = ()
    #: the HTTP request that it belongs to (``x-request-id``), for the worker's log
    trace_id: str = ""
    #: a preparer has tried it
    grammar: Grammar | None = None
    #: how many likely tokens to tell of in the place of each token, and how likely it was itself;
    #: None tells nothing
    logprobs: int | None = None
    #: `Prefilled` has the ``logprobs`` of the prompt's tokens from this one on; None for of none
    echoes_from: int | None = None
    #: until there are so many tokens, nothing ends the generation
    min_tokens: int = 0
    #: the model cannot end the generation
    ignores_eog: bool = False
    #: token ids that end the generation as the model's own do, whatever these may
    stop_ids: tuple[int, ...] = ()
    #: nothing is generated; `Finished` has the embedding of the prompt
    embeds: bool = False
    #: of the worker's engine, where it runs; the schedule says which
    slot: int = 0
    #: what the prefix cache has of the prompt, for a worker that has less of it
    saved: SavedPrefix | None = None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop working on ``request_id``; ignored by a worker that is not running it."""

    request_id: str


@dataclass(frozen=True, slots=True)
class SetThreads:
    """Use this many threads from the next evaluation on."""

    threads: int


@dataclass(frozen=True, slots=True)
class Shutdown:
    """End the worker process."""


@dataclass(frozen=True, slots=True)
class Warm:
    """Evaluate ``text`` as chats begin with it; all later forks have that in their KV caches."""

    text: str


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a process; its descriptors come along."""

    #: of the process, for its log
    name: str
    #: its body, as ``module:function``
    target: str


Question: TypeAlias = Prepare | Detokenize
Command: TypeAlias = Generate | Save | Question | Cancel | SetThreads | Shutdown


@dataclass(frozen=True, slots=True)
class Ready:
    """The process has its model and waits for work."""

    model: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The process has no model and ends; ``reason`` is for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """The zygote has these tokens in its KV cache, and so will have its forks."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Forked:
    """A process was forked; a descriptor of it (`os.pidfd_open`) comes along."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A fork has ended; ``status`` is negative for a signal."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A generation goes on, though there is nothing to tell: sent now and then between its events.

    A preparer says so of a question that it is done with but for the trial of its grammar, which
    holds up no other. No consumer sees it.
    """

    request_id: str


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt has been evaluated."""

    request_id: str
    prompt_tokens: int
    #: how many of them were still in the KV cache
    cached_tokens: int
    #: how long the others took
    prefill_ms: float
    #: of the prompt's tokens, as `Generate.echoes_from` asks for them
    echo_logprobs: tuple[TokenLogprobs, ...] = ()
    #: how many of the cached ones came from the prefix cache
    restored_tokens: int = 0
    #: so far; the pool adds them
    times: Times | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """A further piece of text, made of whole characters; empty only if it has ``logprobs``."""

    request_id: str
    text: str
    #: how many were generated since the last `Delta`
    tokens: int
    #: of the tokens that begin in this piece, if `Generate.logprobs` asks for them; so without
    #: those whose text was cut off by a stop string
    logprobs: tuple[TokenLogprobs, ...] = ()

    def followed_by(self, other: "Delta") -> "Delta":
        """This piece and the next of the same generation as one."""
        return Delta(
            self.request_id,
            self.text + other.text,
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended as it should."""

    request_id: str
    #: ``stop`` (end of generation, or a stop string), ``length`` (``max_tokens`` or the context
    #: ended) or ``cancelled``
    finish_reason: str
    #: how many tokens were generated, the end-of-generation token not counted
    completion_tokens: int
    #: time from the end of the prefill to here
    decode_ms: float
    #: if `Generate.embeds`, `ModelInfo.n_embd` 32-bit floats, little-endian, in Base64
    embedding: str = ""
    #: what was generated; the KV cache holds it behind the prompt
    ids: tuple[int, ...] = ()
    #: what `Save` would take of the prefix cache; 0 if the engine cannot save
    state_bytes: int = 0
    #: filled in by the pool
    times: Times | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A generation has ended without success, or a question has no answer."""

    request_id: str
    #: an `ErrorCode` value
    code: str
    #: for the client: what was wrong and what would be right
    message: str
    #: the field of `Generate` at fault, or `Prepare.param`, if it is one
    param: str | None = None
    #: filled in by the pool
    times: Times | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Answers `Prepare` and `Detokenize`."""

    request_id: str
    ids: tuple[int, ...] = ()
    #: of the prompt or of the ids, if that was asked for
    text: str = ""
    #: the text of each token, if it stood alone: a replacement character for what is no character
    pieces: tuple[str, ...] = ()
    #: how many of the ids were put in front of the text's own; known only with the text
    n_added: int = 0
    #: strings that end an answer, as the chat format has them
    stop: tuple[str, ...] = ()


Lifecycle: TypeAlias = Ready | LoadFailed | Progress | Prepared | Saved
ZygoteMessage: TypeAlias = Warm | Fork | Warmed | Forked | Ended
Event: TypeAlias = Prefilled | Delta | Finished | Failed
Message: TypeAlias = Command | Lifecycle | Event | ZygoteMessage
