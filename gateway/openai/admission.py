"""What can be said about a request before any worker hears of it. Pure."""

from collections.abc import Sequence

from gateway.errors import DEFAULT_RETRY_AFTER, ApiError, excerpt
from gateway.pool.base import PoolLoad, PoolRefused
from gateway.serving import ServingConfig
from shared.errors import ErrorCode
from shared.messages import ModelInfo


def check_model_name(name: str | None, config: ServingConfig) -> None:
    """Refuse a model that is not served here; None, the short form, asks for whatever is.

    Raises:
        ApiError: `MODEL_NOT_FOUND`, with the names there are.
    """
    if name is not None and name != config.model_id:
        message = f"There is no model '{excerpt(name)}' here. This server has: '{config.model_id}'."
        raise ApiError(ErrorCode.MODEL_NOT_FOUND, message, "model")


def loaded_model(load: PoolLoad) -> ModelInfo:
    """The model, which a prompt cannot be rendered or measured without.

    Raises:
        PoolRefused: there is none yet, or there will be none.
    """
    if load.model is not None:
        return load.model
    match load.state:
        case "failed":
            code, message = ErrorCode.MODEL_UNAVAILABLE, f"The model is not there: {load.reason}"
        case "closing":
            code, message = ErrorCode.SHUTTING_DOWN, "The server is shutting down."
        case _:
            code, message = ErrorCode.MODEL_LOADING, "The model is still loading; GET /ready."
    raise PoolRefused(code, message, DEFAULT_RETRY_AFTER)


def check_open(load: PoolLoad) -> None:
    """Refuse whatever the request is, before time is spent on its body.

    Raises:
        PoolRefused: the pool takes nothing now.
    """
    loaded_model(load)
    if load.state == "closing":
        raise PoolRefused(
            ErrorCode.SHUTTING_DOWN, "The server is shutting down.", DEFAULT_RETRY_AFTER
        )
    if load.state != "ready":
        return  # what that means when there is a model, the pool itself knows
    if load.reason is not None:
        raise PoolRefused(ErrorCode.INSUFFICIENT_MEMORY, load.reason, load.retry_after_s)
    if load.idle + load.max_queue <= load.waiting:
        message = (
            f"All workers are busy and {load.waiting} requests wait already,"
            f" of at most {load.max_queue}; try again later."
        )
        raise PoolRefused(ErrorCode.QUEUE_FULL, message, load.retry_after_s)


def check_fan_out(
    prompts: int, n: int, params: tuple[str, str], workers: int, load: PoolLoad
) -> None:
    """Refuse a request for more generations than the pool can take, before any is started.

    Args:
        prompts: how many prompts it has.
        n: how many generations it asks for of each.
        params: the fields of the request that say so.
        workers: how many generations run at once.
        load: of the pool.

    Raises:
        ApiError: it could never take as many.
        PoolRefused: it cannot take as many now.
    """
    wanted = prompts * n
    most = workers + load.max_queue
    if wanted > most:
        message = f"This asks for {wanted} generations at once; this server takes {most}."
        raise ApiError(ErrorCode.INVALID_VALUE, message, params[0] if prompts > 1 else params[1])
    room = load.idle + load.max_queue - load.waiting
    if load.state == "ready" and wanted > room:
        message = f"{wanted} generations do not fit into the queue now, {max(room, 0)} would."
        raise PoolRefused(ErrorCode.QUEUE_FULL, message, load.retry_after_s)


def check_message_count(messages: int, model: ModelInfo) -> None:
    """Refuse a conversation of more messages than tokens, before time is spent on rendering it.

    Raises:
        ApiError: `CONTEXT_LENGTH_EXCEEDED`, with both numbers.
    """
    if messages > model.n_ctx:
        message = f"{_most_tokens(model)}; {messages} messages do not fit into that."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, "messages")


def check_length(prompt: Sequence[str], param: str, model: ModelInfo) -> None:
    """Refuse a prompt that cannot fit, before a worker spends time on tokenizing it.

    Raises:
        ApiError: `CONTEXT_LENGTH_EXCEEDED`, with both numbers.
    """
    size, most = sum(len(part.encode()) for part in prompt), model.n_ctx * model.max_token_bytes
    if size > most:
        message = f"{_most_tokens(model)}, which hold {most} bytes at most; the prompt has {size}."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)


def check_ids(ids: Sequence[object], param: str, model: ModelInfo) -> None:
    """Refuse what is not in the vocabulary.

    Raises:
        ApiError: it names the first that is not.
    """
    for place, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < model.n_vocab:
            where = f"{param}[{place}]"
            said = f", not {token}" if isinstance(token, int) else ""
            message = f"'{where}' should be a token id, from 0 to {model.n_vocab - 1}{said}."
            raise ApiError(ErrorCode.INVALID_VALUE, message, where)


def check_prompt_ids(ids: Sequence[object], param: str, model: ModelInfo) -> None:
    """Refuse a prompt of token ids that cannot fit, or of what is not in the vocabulary.

    Raises:
        ApiError: `CONTEXT_LENGTH_EXCEEDED`, with both numbers; or it names the first wrong id.
    """
    if len(ids) > model.n_ctx:
        message = f"{_most_tokens(model)}; '{param}' has {len(ids)}."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)
    check_ids(ids, param, model)


def _most_tokens(model: ModelInfo) -> str:
    # Clients know the case by OpenAI's words for it.
    return f"This model's maximum context length is {model.n_ctx} tokens"
