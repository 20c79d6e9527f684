"""From a checked request to generations. Pure, apart from the fresh id of the answer."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.chat.special import special_tokens
from gateway.errors import ApiError
from gateway.openai.parameters import check_parameters, wanted_logprobs
from gateway.openai.requests import CompletionRequest, GenerationRequest
from gateway.openai.responses import Header
from gateway.openai.tool_choice import UNBOUND, Bound
from gateway.serving import ServingConfig
from shared.errors import ErrorCode
from shared.messages import Generate, ModelInfo
from shared.sampling import SamplingParams

Form: TypeAlias = Literal["stream", "object", "text"]
Prompt: TypeAlias = tuple[str, ...]
"""Plain text and special tokens by turns, as `shared.messages.Generate` has them."""
PromptIds: TypeAlias = list[int]
"""A prompt as token ids."""

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

    @property
    def params(self) -> dict[str, str]:
        """What fields of `Generate` are called in the request."""
        prompt = "messages" if self.chat else "prompt"
        return {"prompt": prompt, "grammar": self.grammar_param}


def plan_answer(
    request: GenerationRequest,
    prompts: Sequence[Prompt | PromptIds],
    config: ServingConfig,
    stop: tuple[str, ...] = (),
    bound: Bound = UNBOUND,
    calls_tools: bool = False,
) -> AnswerPlan:
    """Lay out the answer to ``request``; choice ``k`` of prompt ``i`` has index ``i * n + k``.

    Args:
        request: what was asked for.
        prompts: what is to be continued.
        config: for the header.
        stop: strings that end an answer, besides those of the request.
        bound: what the answer is bound to be.
        calls_tools: whether there may be calls of tools in the text.

    Raises:
        ApiError: the parameters contradict each other.
    """
    chat = not isinstance(request, CompletionRequest)
    form = _form(request, chat)
    options = request.stream_options
    limit = request.token_limit
    most = _default_max_tokens(request, chat) if limit is None else limit
    check_parameters(request, most, is_stream=form == "stream")
    n, candidates = request.n or 1, request.candidates
    answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
    logprobs = wanted_logprobs(request)
    # The best are those with the likeliest tokens.
    told = 0 if candidates > n and logprobs is None else logprobs
    return AnswerPlan(
        header=Header(answer_id, int(time.time()), config.model_id, config.system_fingerprint),
        chat=chat,
        form=form,
        n=n,
        generations=tuple(
            Generate(
                request_id=f"{answer_id}-{index}",
                prompt=prompt if isinstance(prompt, tuple) else (),
                prompt_ids=() if isinstance(prompt, tuple) else tuple(prompt),
                sampling=sampling(request, index % candidates),
                max_tokens=most,
                max_tokens_is_default=limit is None,
                stop=(*(request.stop or ()), *stop),
                grammar=bound.grammar,
                logprobs=told,
                echoes=isinstance(request, CompletionRequest) and request.echo is True,
                min_tokens=request.min_tokens or 0,
                ignores_eog=request.ignore_eos is True,
                stop_ids=tuple(request.stop_token_ids or ()),
            )
            for index, prompt in enumerate(prompt for prompt in prompts for _ in range(candidates))
        ),
        include_usage=options is not None and options.include_usage is True,
        candidates=candidates,
        tells_logprobs=logprobs is not None,
        calls_tools=calls_tools,
        grammar_param=bound.param,
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


def completion_prompt(text: str, suffix: str | None, model: ModelInfo) -> Prompt:
    """The prompt that asks ``model`` to continue ``text``, or to fill in what leads to ``suffix``.

    Alone, the text is the whole prompt, and its special tokens are some. With a suffix both are
    somebody's document, and the order (prefix, suffix, then the middle is asked for) is the one
    that StarCoder has learned, by its paper.

    Raises:
        ApiError: the model has not learned to fill in.
    """
    if not suffix:
        return special_tokens(model.special_tokens).split(text)
    if model.fim_tokens is None:
        message = f"This model's family ({model.family}) has not learned to fill in the middle."
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "suffix")
    before, after, middle = model.fim_tokens
    return ("", before, text, after, suffix, middle, "")
