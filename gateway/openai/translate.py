"""From a checked request to generations. Pure, apart from the fresh id of the answer."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gateway.chat.rendering import ChatMessage
from gateway.chat.special import special_tokens
from gateway.errors import ApiError
from gateway.openai.requests import CompletionRequest, GenerationRequest, Message
from gateway.openai.responses import Header
from gateway.serving import ServingConfig
from shared.errors import ErrorCode
from shared.messages import Generate, ModelInfo
from shared.sampling import SamplingParams

Form: TypeAlias = Literal["stream", "object", "text"]
Prompt: TypeAlias = tuple[str, ...]
"""Plain text and special tokens by turns, as `shared.messages.Generate` has them."""

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
        generations: one for each choice; their place is the choice's ``index``.
        include_usage: whether a stream ends with the usage.
    """

    header: Header
    chat: bool
    form: Form
    n: int
    generations: tuple[Generate, ...]
    include_usage: bool

    @property
    def prompt_param(self) -> str:
        """The field of the request that prompts come from."""
        return "messages" if self.chat else "prompt"


def plan_answer(
    request: GenerationRequest,
    prompts: Sequence[Prompt],
    config: ServingConfig,
    stop: tuple[str, ...] = (),
) -> AnswerPlan:
    """Lay out the answer to ``request``; choice ``k`` of prompt ``i`` has index ``i * n + k``.

    Args:
        request: what was asked for.
        prompts: what is to be continued.
        config: for the header.
        stop: strings that end an answer, besides those of the request.

    Raises:
        ApiError: the parameters contradict each other.
    """
    chat = not isinstance(request, CompletionRequest)
    form = _form(request, chat)
    options = request.stream_options
    if options is not None and form != "stream":
        message = "'stream_options' is allowed only with 'stream': true."
        raise ApiError(ErrorCode.INVALID_VALUE, message, "stream_options")
    n = request.n or 1
    answer_id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
    return AnswerPlan(
        header=Header(answer_id, int(time.time()), config.model_id, config.system_fingerprint),
        chat=chat,
        form=form,
        n=n,
        generations=tuple(
            Generate(
                request_id=f"{answer_id}-{index}",
                prompt=prompts[index // n],
                sampling=sampling(request, index % n),
                max_tokens=request.token_limit or _default_max_tokens(request, chat),
                max_tokens_is_default=request.token_limit is None,
                stop=(*(request.stop or ()), *stop),
            )
            for index in range(len(prompts) * n)
        ),
        include_usage=options is not None and options.include_usage is True,
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
    given = {name: getattr(request, name) for name in names}
    if request.top_k is not None:
        given["top_k"] = max(request.top_k, 0)
    if request.seed is not None:
        given["seed"] = request.seed + choice
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


def template_messages(conversation: Sequence[Message]) -> list[ChatMessage]:
    """A conversation as chat templates know it, which have never heard of ``developer``."""
    return [
        ChatMessage(
            role="system" if message.role == "developer" else message.role, content=message.text
        )
        for message in conversation
    ]
