"""What can be said of a request before it runs, and the generations that it comes to. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from gateway.answer.constraint import Constraint
from gateway.answer.reader import CallReader, Reader, TextReader
from gateway.ask import Ask, IdsPrompt
from gateway.errors import ApiError
from gateway.pool.base import WorkerPool
from shared.errors import ErrorCode
from shared.messages import Generate, ModelInfo, Prepared


def admit(ask: Ask, pool: WorkerPool) -> ModelInfo:
    """The model, if the pool can take the request; before any worker hears of it.

    Raises:
        PoolRefused: the pool takes nothing now, or not so much.
        ApiError: it could never take so much.
    """
    if ask.embeds:  # of these only so many run at once as the pool has room for
        return pool.admit()
    wanted = len(ask.prompts) * ask.candidates
    if wanted == 1:  # fits; a status takes a look at every worker
        return pool.admit()
    status = pool.status()
    most = status.max_running + status.max_queue
    if wanted > most and status.state == "ready":
        first = ask.prompts[0].param.partition("[")[0]
        message = f"This asks for {wanted} generations at once; this server takes {most}."
        param = first if len(ask.prompts) > 1 else ask.count_param
        raise ApiError(ErrorCode.INVALID_VALUE, message, param)
    return pool.admit(wanted)


def loaded_model(pool: WorkerPool) -> ModelInfo:
    """The model, which a prompt cannot be rendered or measured without.

    Raises:
        PoolRefused: there is none yet, or there will be none.
    """
    return pool.status().model or pool.admit()


def check_for_model(ask: Ask, model: ModelInfo) -> None:
    """Refuse what this model cannot do, and token ids that it does not have.

    Raises:
        ApiError: it names the field.
    """
    for token, _ in ask.sampling.logit_bias:
        if token >= model.n_vocab:
            message = f"'logit_bias' should have token ids below {model.n_vocab}, not {token}."
            raise ApiError(ErrorCode.INVALID_VALUE, message, "logit_bias")
    check_ids(ask.stop_ids, "stop_token_ids", model)
    for prompt in ask.prompts:
        if isinstance(prompt, IdsPrompt):
            _check_prompt_ids(prompt, model)
    if ask.embeds:
        _check_embeddings(ask, model)
    elif not model.generates:
        message = f"This model ({model.family}) gives embeddings, and writes no text."
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "model")


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


def _check_prompt_ids(prompt: IdsPrompt, model: ModelInfo) -> None:
    ids, param = prompt.ids, prompt.param
    if len(ids) > model.n_ctx:
        message = f"{most_tokens(model)}; '{param}' has {len(ids)}."
        raise ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)
    check_ids(ids, param, model)


def most_tokens(model: ModelInfo) -> str:
    # Clients know the case by OpenAI's words for it.
    return f"This model's maximum context length is {model.n_ctx} tokens"


def _check_embeddings(ask: Ask, model: ModelInfo) -> None:
    if not model.n_embd:
        message = (
            f"This model's family ({model.family}) gives no embeddings here: LLaMA and Falcon do;"
            " StarCoder, MPT, GPT-2 and GPT-NeoX do not."
        )
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "model")
    if ask.dimensions is not None and ask.dimensions > model.n_embd:
        message = f"'dimensions' should be at most {model.n_embd}, which this model has."
        raise ApiError(ErrorCode.INVALID_VALUE, message, "dimensions")


def reader_for(ask: Ask, prompt: Prepared) -> Reader:
    if ask.tools.functions:
        return CallReader(ask.stop)
    return TextReader(prompt.text if ask.echoes else "")


def generations(
    ask: Ask,
    prompts: Sequence[tuple[Prepared, int]],
    constraint: Constraint,
    answer_id: str,
    trace_id: str,
) -> list[Generate]:
    """The generations of a request; choice ``k`` of prompt ``i`` has index ``i * n + k``.

    ``prompts`` come with the number of tokens that may be generated behind each.
    """
    # Of an answer that may call tools the client does not see all as text: `CallReader` stops it.
    stops = () if ask.tools.functions else ask.stop
    # The best are those with the likeliest tokens.
    logprobs = 0 if ask.candidates > ask.n and ask.logprobs is None else ask.logprobs
    made: list[Generate] = []
    for prompt, room in prompts:
        for place in range(ask.candidates):
            # Each draws with its own seed, or all would be the same.
            sampling = ask.sampling
            if sampling.seed is not None and place:
                sampling = replace(sampling, seed=sampling.seed + place)
            made.append(
                Generate(
                    request_id=f"{answer_id}-{len(made)}",
                    ids=prompt.ids,
                    sampling=sampling,
                    max_tokens=room,
                    stop=(*stops, *prompt.stop),
                    trace_id=trace_id,
                    grammar=constraint.grammar,
                    logprobs=logprobs,
                    echoes_from=prompt.n_added if ask.echoes else None,
                    min_tokens=ask.min_tokens,
                    ignores_eog=ask.ignores_eog,
                    stop_ids=ask.stop_ids,
                    embeds=ask.embeds,
                )
            )
    return made
