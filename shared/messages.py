"""Every message between the gateway and a worker; `shared.encoding` has their one encoding.

Down a worker's queue go commands: `Generate`, `Tokenize`, `Detokenize`, `Cancel`, `SetThreads`,
`Shutdown`. Up its pipe come events: `Ready`, `LoadFailed`, `Progress`, `Prefilled`, `Delta`,
`Finished`, `Failed`, `Tokens`. Every `Generate` is answered by exactly one terminal event
(`Finished` or `Failed`), in the order ``Prefilled, Delta*, terminal``; every `Tokenize` and
`Detokenize` by one `Tokens`, whatever else the worker is doing.

The zygote says `Ready` or `LoadFailed`, then takes `Warm`, which it answers by `Warmed` or
`LoadFailed`, and `Fork`, which it answers by `Forked` and in the end by `Ended`.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from shared.grammar import Grammar
from shared.logprobs import TokenLogprobs
from shared.model_info import ModelInfo as ModelInfo
from shared.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Generate:
    """Generate one completion of ``prompt``.

    Attributes:
        request_id: names this generation in every later message about it.
        prompt: plain text and special tokens by turns, plain text first: the parts at odd places
            are texts of special tokens, and no other text becomes one.
        sampling: how tokens are drawn.
        max_tokens: the most tokens to generate; None means up to the end of the context.
        max_tokens_is_default: the client did not choose ``max_tokens``, so what does not fit into
            the context is cut instead of refused.
        stop: generation ends before any of these strings; they are never part of the text.
        trace_id: the HTTP request that it belongs to (``x-request-id``), for the worker's log.
        prompt_ids: the prompt as token ids, all within the vocabulary; ``prompt`` is empty then.
        grammar: what the completion is bound to be; None for any text.
        logprobs: how many likely tokens to tell of in the place of each token, and how likely it
            was itself; None tells nothing.
        echoes: `Prefilled` gives the prompt back, with its ``logprobs`` if these are asked for.
        min_tokens: until there are so many tokens, nothing ends the generation.
        ignores_eog: the model cannot end the generation.
        stop_ids: token ids that end the generation as the model's own do, whatever these may.
        embeds: nothing is generated; `Finished` has the embedding of the prompt.
    """

    request_id: str
    prompt: tuple[str, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    max_tokens_is_default: bool = False
    stop: tuple[str, ...] = ()
    trace_id: str = ""
    prompt_ids: tuple[int, ...] = ()
    grammar: Grammar | None = None
    logprobs: int | None = None
    echoes: bool = False
    min_tokens: int = 0
    ignores_eog: bool = False
    stop_ids: tuple[int, ...] = ()
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Tokenize:
    """Say which token ids a prompt has; see `Generate.prompt`.

    Attributes:
        request_id: names this question in its answer.
        prompt: the prompt.
        begins: whether the token that begins a sequence is put in front, where the model has one.
        wants_texts: whether the answer has the text of each token.
    """

    request_id: str
    prompt: tuple[str, ...]
    begins: bool = True
    wants_texts: bool = False


@dataclass(frozen=True, slots=True)
class Detokenize:
    """Say which text token ids have, all of them within the vocabulary."""

    request_id: str
    ids: tuple[int, ...]


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
    """Evaluate what the prompts begin with; all later forks have it in their KV caches."""

    prompts: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a process; its descriptors come along."""

    #: of the process, for its log
    name: str
    #: its body, as ``module:function``
    target: str


Command: TypeAlias = Generate | Tokenize | Detokenize | Cancel | SetThreads | Shutdown


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker has its model and waits for work."""

    model: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The worker has no model and ends; ``reason`` is for the operator."""

    reason: str


@dataclass(frozen=True, slots=True)
class Warmed:
    """The zygote has ``prefix_tokens`` tokens in its KV cache, and so will have its forks."""

    prefix_tokens: int


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

    Not an event of the generation: no consumer sees it.
    """

    request_id: str


@dataclass(frozen=True, slots=True)
class Prefilled:
    """The prompt has been evaluated.

    Attributes:
        request_id: which generation.
        prompt_tokens: tokens in the prompt.
        cached_tokens: how many of them were still in the KV cache.
        prefill_ms: how long the others took.
        echo: the text of the prompt, if `Generate.echoes`.
        echo_logprobs: of each of its tokens, if that was asked for, too. A token that the model
            puts in front of every prompt is not among them.
    """

    request_id: str
    prompt_tokens: int
    cached_tokens: int
    prefill_ms: float
    echo: str = ""
    echo_logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A further piece of text, made of whole characters; empty only if it has ``logprobs``.

    Attributes:
        request_id: which generation.
        text: the piece.
        tokens: how many tokens were generated since the last `Delta`.
        logprobs: of the tokens that begin in this piece, if `Generate.logprobs` asks for them; so
            without those whose text was cut off by a stop string.
    """

    request_id: str
    text: str
    tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()

    def followed_by(self, other: "Delta") -> "Delta":
        """This piece and the next of the same generation as one."""
        return Delta(
            self.request_id,
            self.text + other.text,
            self.tokens + other.tokens,
            self.logprobs + other.logprobs,
        )


TEXT_GAP_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3,
    0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Seconds by which the gaps between two pieces of text are counted."""


@dataclass(frozen=True, slots=True)
class Times:
    """What became of a generation, as the pool that ran it saw it; times are seconds."""

    #: from its admission until it was given to the worker that ran it last; None if none did
    queue_s: float | None
    #: from its admission to its first token; None if there was none
    first_s: float | None
    #: from its admission to its end
    total_s: float
    #: the worker that ran it last
    worker_id: int | None
    #: how often it was given to a worker
    runs: int
    #: how many pieces of text came within each of `TEXT_GAP_BOUNDS_S` after the one before, but not
    #: within the bound before; the last for those that came later
    gap_counts: tuple[int, ...]
    #: the sum of those gaps
    gaps_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """A generation has ended as it should.

    Attributes:
        request_id: which generation.
        finish_reason: ``stop`` (end of generation, or a stop string), ``length`` (``max_tokens``
            or the context ended) or ``cancelled``.
        completion_tokens: how many tokens were generated, the end-of-generation token not counted.
        decode_ms: time from the end of the prefill to here.
        embedding: if `Generate.embeds`, `ModelInfo.n_embd` 32-bit floats, little-endian, in Base64.
    """

    request_id: str
    finish_reason: str
    completion_tokens: int
    decode_ms: float
    embedding: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A generation has ended without success.

    Attributes:
        request_id: which generation.
        code: an `ErrorCode` value.
        message: for the client: what was wrong and what would be right.
        param: the field of `Generate` at fault, if it is one.
    """

    request_id: str
    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """Answers `Tokenize` and `Detokenize`.

    Attributes:
        request_id: which question.
        ids: the token ids.
        texts: of `Tokenize.wants_texts`, what each of them stands for, if it stood alone; what is
            no character alone is shown as a replacement character.
        text: of `Detokenize`, what all of them stand for together.
        error: why there is no answer; empty if there is one.
    """

    request_id: str
    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    text: str = ""
    error: str = ""


Lifecycle: TypeAlias = Ready | LoadFailed | Progress | Tokens
ZygoteMessage: TypeAlias = Warm | Fork | Warmed | Forked | Ended
Event: TypeAlias = Prefilled | Delta | Finished | Failed
Message: TypeAlias = Command | Lifecycle | Event | ZygoteMessage
