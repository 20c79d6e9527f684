"""From a request to a sequence that can run, or to the reason why it cannot."""

from shared.errors import ErrorCode
from shared.messages import Failed, Generate
from worker.engines.base import Engine
from worker.grammar.grammars import Grammars
from worker.grammar.matcher import GrammarError, Matcher
from worker.sequence import Sequence

_SLOT = 0


def admit(engine: Engine, grammars: Grammars, request: Generate) -> Sequence | Failed:
    """Begin a generation, with the part of the engine's cache that it can use."""
    prompt = list(request.ids)
    room = engine.info.n_ctx - len(prompt)
    matcher: Matcher | None = None
    if request.grammar is not None:
        try:
            matcher = grammars.matcher(request.grammar)
        except GrammarError as error:
            return grammar_refusal(request, error)
    if request.echoes_from is not None and request.logprobs is not None:
        engine.reuse_prefix(_SLOT, prompt[:1])  # of what is cached nobody knows the logits
    cached_tokens = engine.reuse_prefix(_SLOT, prompt)
    return Sequence(
        engine,
        request,
        prompt,
        cached_tokens=cached_tokens,
        budget=room if request.max_tokens is None else min(request.max_tokens, room),
        matcher=matcher,
    )


def grammar_refusal(request: Generate, error: GrammarError) -> Failed:
    """What a grammar that cannot be used, or not be used to its end, means for its request.

    The message goes on where the gateway has named the field of the request.
    """
    message = f"cannot be used: {error}"
    return Failed(request.request_id, ErrorCode.INVALID_VALUE.value, message, "grammar")
