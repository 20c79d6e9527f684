"""From a request to a sequence that can run, or to the reason why it cannot."""

import logging
from collections.abc import Callable

from shared.errors import ErrorCode
from shared.messages import Failed, Generate
from worker.engines.base import Engine
from worker.grammar import GrammarError, Grammars, Matcher
from worker.sequence import Sequence

_SLOT = 0

logger = logging.getLogger(__name__)


def admit(
    engine: Engine, grammars: Grammars, request: Generate, on_wait: Callable[[], None]
) -> Sequence | Failed:
    """Begin a generation, with the part of the engine's cache that it can use.

    Args:
        engine: what is to run it.
        grammars: over its vocabulary.
        request: what is asked for.
        on_wait: called now and then while its grammar is being compiled.

    Raises:
        EngineError: its grammar cannot be compiled at present.
    """
    prompt: list[int] = list(request.prompt_ids)
    try:
        prompt = prompt or engine.tokenize(request.prompt)
    except Exception:
        logger.exception("the prompt of %s could not be tokenized", request.request_id)
        return _refusal(request, ErrorCode.INVALID_PROMPT, "the prompt could not be tokenized")
    n_ctx, n_prompt = engine.info.n_ctx, len(prompt)
    room = n_ctx - n_prompt
    least = 0 if request.embeds or request.max_tokens == 0 else 1
    wanted = room if request.max_tokens is None else request.max_tokens
    if n_prompt == 0:
        message = "the prompt is empty; this model needs at least one token to continue from"
        return _refusal(request, ErrorCode.INVALID_PROMPT, message, "prompt")
    if room < least or (wanted > room and not request.max_tokens_is_default):
        asked = f" and {wanted} for the completion" if request.max_tokens else ""
        message = (
            f"This model's maximum context length is {n_ctx} tokens,"
            f" prompt and completion together; this request has {n_prompt} in the prompt{asked}."
            f" {'Shorten the prompt.' if least == 0 else 'Shorten the prompt or lower max_tokens.'}"
        )
        param = "prompt" if room < least else "max_tokens"
        return _refusal(request, ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, param)
    matcher: Matcher | None = None
    if request.grammar is not None:
        try:
            matcher = grammars.matcher(request.grammar, on_wait)
        except GrammarError as error:
            return grammar_refusal(request, error)
    looks_at_prompt = request.echoes and request.logprobs is not None
    if looks_at_prompt:
        engine.reuse_prefix(_SLOT, prompt[:1])  # of what is cached nobody knows the logits
    cached_tokens = engine.reuse_prefix(_SLOT, prompt)
    return Sequence(
        engine,
        request,
        prompt,
        cached_tokens=cached_tokens,
        budget=min(wanted, room),
        matcher=matcher,
    )


def grammar_refusal(request: Generate, error: GrammarError) -> Failed:
    """What a grammar that cannot be used, or not be used to its end, means for its request.

    The message goes on where the gateway has named the field of the request.
    """
    message = f"cannot be used: {error}"
    return _refusal(request, ErrorCode.INVALID_VALUE, message, "grammar")


def _refusal(request: Generate, code: ErrorCode, message: str, param: str | None = None) -> Failed:
    return Failed(request.request_id, code.value, message, param)
