"""What can be said of a request before it runs, and the generations that it comes to. Pure."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from gateway.answer.constraint import Constraint
from gateway.ask import Ask, IdsPrompt, Limit, Prompt
from gateway.errors import ApiError, refused
from gateway.pool.base import WorkerPool
from shared.errors import ErrorCode
from shared.grammar import Grammar
from shared.messages import Chat, Detokenize, Generate, ModelInfo, Prepare, Prepared, Question, Text

MOST_BYTES = 512 << 10
"""Of a text that is tokenized for its own sake, whatever the context length."""


def admit(ask: Ask, pool: WorkerPool) -> ModelInfo:
    """The model, if the pool can take the request; before any worker hears of it.

    Raises:
        PoolRefused: the pool takes nothing now, or not so much.
        ApiError: it could never take so much.
    """
    wanted = len(ask.prompts) * ask.candidates
    # Of embeddings only so many run at once as the pool has room for. One fits always; and a status
    # takes a look at every worker.
    if ask.embeds or wanted == 1:
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
            raise refused("logit_bias", f"should have token ids below {model.n_vocab}, not {token}")
    _check_ids(ask.stop_ids, "stop_token_ids", model)
    if not ask.embeds and not model.generates:
        message = f"This model ({model.family}) gives embeddings, and writes no text."
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "model")
    if ask.embeds and not model.n_embd:
        message = (
            f"This model's family ({model.family}) gives no embeddings here: LLaMA and Falcon do;"
            " StarCoder, MPT, GPT-2 and GPT-NeoX do not."
        )
        raise ApiError(ErrorCode.UNSUPPORTED_PARAMETER, message, "model")
    if ask.dimensions is not None and ask.dimensions > model.n_embd:
        raise refused("dimensions", f"should be at most {model.n_embd}, which this model has")


def _check_ids(ids: Sequence[object], param: str, model: ModelInfo) -> None:
    """Refuse what is not in the vocabulary; the error names the first that is not."""
    for place, token in enumerate(ids):
        if type(token) is not int or not 0 <= token < model.n_vocab:
            said = f", not {token}" if isinstance(token, int) else ""
            sentence = f"should be a token id, from 0 to {model.n_vocab - 1}{said}"
            raise refused(f"{param}[{place}]", sentence)


def _too_long(model: ModelInfo, said: str, param: str) -> ApiError:
    # Clients know the case by OpenAI's words for it.
    message = f"This model's maximum context length is {model.n_ctx} tokens{said}"
    return ApiError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)


def questions_of(
    ask: Ask, model: ModelInfo, grammar: Grammar | None, *, wants_text: bool
) -> list[Question | Prepared]:
    """What to ask about the prompts of a request; ids of which no text is wanted need no question.

    A grammar is tried once, with the first prompt or in a last question of its own.

    Raises:
        ApiError: a prompt cannot fit, or has ids that the model does not have.
    """
    questions: list[Question | Prepared] = []
    for prompt in ask.prompts:
        if isinstance(prompt, Prepare):
            _check_length(prompt, model)
            questions.append(replace(prompt, request_id=_question_id(), wants_text=wants_text))
        else:
            if len(prompt.ids) > model.n_ctx:
                said = f"; '{prompt.param}' has {len(prompt.ids)}."
                raise _too_long(model, said, prompt.param)
            asked = _detokenize(prompt, model)
            questions.append(asked if wants_text else Prepared("", asked.ids))
    if grammar is not None:
        if isinstance(questions[0], Prepare):
            questions[0] = replace(questions[0], grammar=grammar)
        else:
            questions.append(Prepare(_question_id(), grammar=grammar))
    return questions


def token_question(prompt: Prompt, model: ModelInfo) -> Question:
    """What to ask about a prompt for its own sake; a text may be longer than the context.

    Raises:
        ApiError: it is too long to be tokenized in a moment, or the model does not have such ids.
    """
    if isinstance(prompt, IdsPrompt):
        return _detokenize(prompt, model)
    if isinstance(prompt.prompt, Chat):
        _check_length(prompt, model)
    elif isinstance(prompt.prompt, Text):
        n_bytes = len(prompt.prompt.text.encode())
        if n_bytes > MOST_BYTES:
            message = f"this is {n_bytes} bytes long; at most {MOST_BYTES} bytes are taken at once"
            raise ApiError(ErrorCode.BODY_TOO_LARGE, message)
    return replace(prompt, request_id=_question_id())


def _question_id() -> str:
    return f"prompt-{uuid.uuid4().hex}"


def _detokenize(prompt: IdsPrompt, model: ModelInfo) -> Detokenize:
    _check_ids(prompt.ids, prompt.param, model)
    return Detokenize(_question_id(), tuple(prompt.ids))


def _check_length(asked: Prepare, model: ModelInfo) -> None:
    """Refuse what cannot fit before it crosses; a preparer measures what a chat becomes."""
    match asked.prompt:
        case Chat(messages) if len(messages) > model.n_ctx:
            said = f"; {len(messages)} messages do not fit into that."
            raise _too_long(model, said, asked.param)
        case Text(text, suffix):
            size, most = (
                len(text.encode()) + len(suffix.encode()),
                model.n_ctx * model.max_token_bytes,
            )
            if size > most:
                said = f", which hold {most} bytes at most; the prompt has {size}."
                raise _too_long(model, said, asked.param)


def room_for(prompt: Prepared, limit: Limit, model: ModelInfo, param: str) -> int:
    """How many tokens can be generated behind a prompt, at most as many as are wanted.

    Raises:
        ApiError: they do not fit into the context, or there is no prompt.
    """
    n_prompt, wanted = len(prompt.ids), limit.tokens
    if n_prompt == 0:
        message = "the prompt is empty; this model needs at least one token to continue from"
        raise ApiError(ErrorCode.INVALID_PROMPT, message, param)
    room = model.n_ctx - n_prompt
    least = 0 if wanted == 0 else 1
    if room < least or (wanted is not None and wanted > room and not limit.is_clamped):
        completion = f" and {wanted} for the completion" if wanted else ""
        advice = "" if least == 0 else " or lower max_tokens"
        said = (
            f", prompt and completion together; this request has {n_prompt} in the prompt"
            f"{completion}. Shorten the prompt{advice}."
        )
        raise _too_long(model, said, param if room < least else "max_tokens")
    return room if wanted is None else min(wanted, room)


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
