"""Answers questions about tokens, which need the vocabulary but no evaluation."""

import logging

from shared.messages import Detokenize, Tokenize, Tokens
from worker.engines.base import Engine
from worker.sequence import text_of

logger = logging.getLogger(__name__)


def answer(engine: Engine, question: Tokenize | Detokenize) -> Tokens:
    """The answer; it says so itself if there is none."""
    try:
        if isinstance(question, Detokenize):
            ids = question.ids
        else:
            ids = tuple(engine.tokenize(question.prompt, begins=question.begins))
        texts = tuple(text_of(engine, (token,)) for token in ids)
        return Tokens(question.request_id, ids, texts, text_of(engine, ids))
    except Exception:
        logger.exception("the question %s could not be answered", question.request_id)
        return Tokens(question.request_id, error="the text could not be tokenized")
