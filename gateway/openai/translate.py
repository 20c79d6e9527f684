"""From a checked request to generations. Pure, apart from the fresh id of the answer."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.openai.parameters import check_parameters, wanted_logprobs
from gateway.openai.prompts import room_for
from gateway.openai.requests import CompletionRequest, GenerationRequest
from gateway.openai.responses import Header
from gateway.openai.tool_choice import UNBOUND, Bound
from gateway.serving import ServingConfig
from shared.messages import Generate, ModelInfo, Prepared
from shared.sampling import SamplingParams

Form: TypeAlias = Literal["stream", "object", "text"]

SHORT_FORM_MAX_TOKENS = 250
OPENAI_COMPLETION_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """What a request comes to.

    Attributes:
        header: what the object or each chunk begins with.
        chat: whether the wire format is the one of chats or of completions.
        form: how the answer is given; ``text`` is the bare continuation as a JSON string.
        n: choices for each prompt.
        generations: ``candidates`` for each prompt, one prompt after the other. Where these are
            ``n``, their place is the choice's ``index``.
        include_usage: whether a stream ends with the usage.
        candidates: generations for each prompt, of which the best ``n`` are given.
        tells_logprobs: whether the answer says how likely its tokens were.
        calls_tools: whether there may be calls of tools in the text.
        grammar_param: the field of the request that says what the answer is bound to be.
        texts: of the prompts, as far as they are known.
        echoes: whether each choice begins with the text of its prompt.
    """

    header: Header
    chat: bool
    form: Form
    n: int
    generations: tuple[Generate, ...]
    include_usage: bool
    candidates: int
    tells_logprobs: bool = False
    calls_tools: bool = False
    grammar_param: str = ""
    texts: tuple[str, ...] = ()
    echoes: bool = False

    @property
    def params(self) -> dict[str, str]:
        """What fields of `Generate` are called in the request."""
        return {"grammar": self.grammar_param}

    def echo(self, index: int) -> str:
        """The text that generation ``index`` begins with."""
        return self.texts[index // self.candidates] if self.echoes else ""


def check_answer(request: GenerationRequest) -> None:
    """Refuse a request before its prompts are prepared.

    Raises:
        ApiError: the parameters contradict each other.
    """
    chat = not isinstance(request, CompletionRequest)
    limit = request.token_limit
    most = _default_max_tokens(request, chat) if limit is None else limit
    check_parameters(request, most, is_stream=_form(request, chat) == "stream")


def plan_answer(
    request: GenerationRequest,
    prompts: Sequence[Prepared],
    config: ServingConfig,
    model: ModelInfo,
    bound: Bound = UNBOUND,
    calls_tools: bool = False,
) -> AnswerPlan:
    """Lay out the answer to ``request``; choice ``k`` of prompt ``i`` has index ``i * n + k``.

    Args:
        request: what was asked for; it has passed `check_answer`.
        prompts: what is to be continued.
        config: for the header.
        model: which is to continue it.
        bound: what the answer is bound to be.
        calls_tools: whether there may be calls of tools in the text.

    Raises:
        ApiError: a prompt, and what is to be generated, do not fit into the context.
    """
    chat = not isinstance(request, CompletionRequest)
    form = _form(request, chat)
    options = request.stream_options
    limit = request.token_limit
    most = _default_max_tokens(request, chat) if limit is None else limit
    n, candidates = request.n or 1, request.candidates
    answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
    logprobs = wanted_logprobs(request)
    # The best are those with the likeliest tokens.
    told = 0 if candidates > n and logprobs is None else logprobs
    echoes = isinstance(request, CompletionRequest) and request.echo is True
    param = "messages" if chat else "prompt"
    rooms = [
        room_for(prompt, most, model, param=param, is_default=limit is None) for prompt in prompts
    ]
    return AnswerPlan(
        header=Header(answer_id, int(time.time()), config.model_id, config.system_fingerprint),
        chat=chat,
        form=form,
        n=n,
        generations=tuple(
            Generate(
                request_id=f"{answer_id}-{index}",
                ids=prompt.ids,
                sampling=sampling(request, index % candidates),
                max_tokens=room,
                stop=(*(request.stop or ()), *prompt.stop),
                grammar=bound.grammar,
                logprobs=told,
                echoes_from=prompt.n_added if echoes else None,
                min_tokens=request.min_tokens or 0,
                ignores_eog=request.ignore_eos is True,
                stop_ids=tuple(request.stop_token_ids or ()),
            )
            for index, (prompt, room) in enumerate(
                pair for pair in zip(prompts, rooms, strict=True) for _ in range(candidates)
            )
        ),
        include_usage=options is not None and options.include_usage is True,
        candidates=candidates,
        tells_logprobs=logprobs is not None,
        calls_tools=calls_tools,
        grammar_param=bound.param,
        texts=tuple(prompt.text for prompt in prompts),
        echoes=echoes,
    )


def _form(request: GenerationRequest, chat: bool) -> Form:
    if request.stream is not None:
        return "stream" if request.stream else "object"
    if request.model is not None:
        return "object"
    return "stream" if chat else "text"


def _default_max_tokens(request: GenerationRequest, chat: bool) -> int | None:
    if request.model is None:
        return SHORT_FORM_MAX_TOKENS
    return None if chat else OPENAI_COMPLETION_MAX_TOKENS


def sampling(request: GenerationRequest, choice: int) -> SamplingParams:
    """The sampling of one choice; each draws with its own seed, or all would be the same."""
    names = (
        "temperature",
        "top_p",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
    )
    given: dict[str, Any] = {name: getattr(request, name) for name in names}
    if request.top_k is not None:
        given["top_k"] = max(request.top_k, 0)
    if request.seed is not None:
        given["seed"] = request.seed + choice
    if request.logit_bias:
        biases = ((int(token), float(bias)) for token, bias in request.logit_bias.items())
        given["logit_bias"] = tuple(sorted(biases))
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})
