"""Parameters that depend on each other or on the model. Pure."""

from gateway.errors import ApiError
from gateway.openai.admission import check_ids
from gateway.openai.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationRequest,
    ManyChatsRequest,
)
from shared.errors import ErrorCode
from shared.messages import ModelInfo


def wanted_logprobs(request: GenerationRequest) -> int | None:
    """How many alternatives of each token ``request`` wants to know; None if nothing of any."""
    if isinstance(request, CompletionRequest):
        return request.logprobs
    if isinstance(request, ChatRequest | ManyChatsRequest) and request.logprobs:
        return request.top_logprobs or 0
    return None


def check_parameters(request: GenerationRequest, most: int | None, *, is_stream: bool) -> None:
    """Refuse parameters that contradict each other.

    Args:
        request: the parameters.
        most: the most tokens to generate, which may be a default; None for no limit.
        is_stream: whether the answer is streamed.

    Raises:
        ApiError: it names the one that is wrong beside the others.
    """
    if request.stream_options is not None and not is_stream:
        raise _wrong("stream_options", "is allowed only with 'stream': true")
    least = request.min_tokens or 0
    if most is not None and least > most:
        raise _wrong("min_tokens", f"is {least}, more than the {most} of 'max_tokens'")
    if isinstance(request, CompletionRequest):
        _check_completion(request, is_stream)
        return
    assert isinstance(request, ChatRequest | ManyChatsRequest)
    if request.top_logprobs and not request.logprobs:
        raise _wrong("top_logprobs", "is allowed only with 'logprobs': true")


def _check_completion(request: CompletionRequest, is_stream: bool) -> None:
    n, best_of = request.n or 1, request.best_of
    if best_of is not None and best_of < n:
        raise _wrong("best_of", f"is {best_of}, fewer than the {n} choices of 'n'")
    if best_of is not None and best_of > n and is_stream:
        raise _wrong("best_of", "more than 'n' cannot be streamed: the best is known at the end")
    if request.echo and request.suffix:
        raise _wrong("echo", "and 'suffix' exclude each other")


def check_token_ids(request: GenerationRequest, model: ModelInfo) -> None:
    """Refuse token ids that the model does not have.

    Raises:
        ApiError: it names the field.
    """
    for token in request.logit_bias or ():
        if int(token) >= model.n_vocab:
            raise _wrong("logit_bias", f"should have token ids below {model.n_vocab}, not {token}")
    check_ids(request.stop_token_ids or (), "stop_token_ids", model)


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_VALUE, f"'{param}' {problem}.", param)
