"""Parameters that depend on each other or on the model. Pure."""

from gateway.errors import ApiError
from gateway.openai.requests import ChatRequest as ChatRequest
from gateway.openai.requests import CompletionRequest, GenerationRequest, ManyChatsRequest
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
    n_vocab = model.n_vocab
    for token in request.logit_bias or ():
        if int(token) >= n_vocab:
            raise _wrong("logit_bias", f"has the token id {token}; there are {n_vocab} tokens")
    for token_id in request.stop_token_ids or ():
        if token_id >= n_vocab:
            message = f"has the token id {token_id}; there are {n_vocab} tokens"
            raise _wrong("stop_token_ids", message)


def check_prompt_ids(ids: list[int], param: str, model: ModelInfo) -> None:
    """Refuse a prompt of token ids that the model does not have, or of too many.

    Raises:
        ApiError: it names the field and the id, or both numbers.
    """
    if not 0 <= min(ids) <= max(ids) < model.n_vocab:
        wrong = next(token for token in ids if not 0 <= token < model.n_vocab)
        raise _wrong(param, f"has the token id {wrong}; there are {model.n_vocab} tokens")
    if len(ids) > model.n_ctx:
        message = (
            f"This model's maximum context length is {model.n_ctx} tokens;"
            f" the prompt has {len(ids)}."
        )
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)


def _wrong(param: str, problem: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_VALUE, f"'{param}' {problem}.", param)
