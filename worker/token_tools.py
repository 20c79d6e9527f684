"""Answers questions about tokens, which need the vocabulary but no evaluation."""

import logging

from shared.messages import Detokenize, Tokenize, Tokens
from shared.typing import assert_never
from worker.engines.base import Engine
from worker.sequence import text_of

logger = logging.getLogger(__name__)


def answer(engine: Engine, question: Tokenize | Detokenize) -> Tokens:
    """The answer; it says so itself if there is none."""
    try:
        match question:
            case Detokenize(request_id, ids):
                return Tokens(request_id, ids, text=text_of(engine, ids))
            case Tokenize(request_id, prompt, begins, wants_texts):
                ids = tuple(engine.tokenize(prompt, begins=begins))
                texts = [text_of(engine, (token,)) for token in ids] if wants_texts else ()
                return Tokens(request_id, ids, tuple(texts))
            case _:
                assert_never(question)
    except Exception:
        logger.exception("the question %s could not be answered", question.request_id)
        return Tokens(question.request_id, error="the text could not be tokenized")
