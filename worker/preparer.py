"""The preparer: renders, tokenizes, detokenizes and tries grammars, beside the workers.

What hangs or dies of a question here takes no generation with it. The kernel ends the process when
a question takes too much time, and refuses it too much memory; the gateway then starts another.
"""

import logging
import math
import resource
import select
from collections import defaultdict
from dataclasses import replace

from shared.encoding import decode
from shared.errors import ErrorCode
from shared.grammar import Grammar
from shared.messages import Chat, Detokenize, Failed, Prepare, Prepared, Progress, Shutdown
from worker.engines.base import Engine
from worker.grammar.grammars import Grammars
from worker.grammar.trial import GrammarRefused, Trials, bound_memory
from worker.pipes import Inbox, Outbox
from worker.prompt.prompts import Parts, PromptError, Prompts
from worker.sequence import text_of

MOST_CPU_S = 10
"""Seconds of CPU time for one question, without the trial of its grammar."""
_MOST_BYTES = 1 << 30
# So much more than fits is told by its number.
_NEAR_BYTES = 64 << 10
# How often it looks whether the time of a trial is over.
_TICK_S = 0.5

logger = logging.getLogger(__name__)


class Preparer:
    """Answers one question after another; trials of grammars go on beside."""

    def __init__(
        self, engine: Engine, prompts: Prompts, grammars: Grammars, inbox: Inbox, outbox: Outbox
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._grammars = grammars
        self._trials = Trials(grammars.problem)
        # What else has been answered about the requests whose grammar is being tried.
        self._on_trial: dict[Grammar, list[Prepared]] = defaultdict(list)
        self._inbox = inbox
        self._outbox = outbox

    def run(self) -> None:
        """Work until `Shutdown` arrives."""
        bound_memory(_MOST_BYTES)
        while True:
            self._outbox.drain(self._inbox)
            self._wait()
            for grammar, refusal in self._trials.step():
                self._end_trial(grammar, refusal)
            if self._inbox.empty():
                continue
            _bound_time()
            question = decode(self._inbox.get())
            if isinstance(question, Shutdown):
                return
            self._take(question)

    def _wait(self) -> None:
        """Wait for a question, or for the end of a trial."""
        ready = select.poll()
        ready.register(self._inbox.fileno(), select.POLLIN)
        for trial in self._trials.running.values():
            ready.register(trial.fileno(), select.POLLIN)
        if self._inbox.empty():
            ready.poll(1000 * _TICK_S if self._trials.running else None)

    def _take(self, question: Prepare | Detokenize) -> None:
        answer = self._answer(question)
        grammar = question.grammar if isinstance(question, Prepare) else None
        if isinstance(answer, Failed) or grammar is None or self._trials.knows(grammar):
            self._outbox.send([answer])
            return
        self._outbox.send([Progress(question.request_id)])
        self._grammars.prepare()  # not in each trial
        self._on_trial[grammar].append(answer)
        self._trials.begin(grammar)
        for ended, refusal in self._trials.step():
            self._end_trial(ended, refusal)

    def _end_trial(self, grammar: Grammar, refusal: GrammarRefused | None) -> None:
        for answer in self._on_trial.pop(grammar, ()):
            if refusal is None:
                self._outbox.send([answer])
            else:
                # The message goes on where the gateway has named the field of the request.
                message, code = f"cannot be used: {refusal}", refusal.code.value
                self._outbox.send([Failed(answer.request_id, code, message, "grammar")])

    def _answer(self, question: Prepare | Detokenize) -> Prepared | Failed:
        request_id = question.request_id
        param = "tokens" if isinstance(question, Detokenize) else question.param
        try:
            if isinstance(question, Detokenize):
                return Prepared(request_id, question.ids, text_of(self._engine, question.ids))
            return self._prepared(question)
        except PromptError as error:
            return Failed(request_id, error.code.value, str(error), error.param or param)
        except Exception:
            logger.exception("the question %s could not be answered", request_id)
            message = "the prompt could not be tokenized"
            return Failed(request_id, ErrorCode.INVALID_PROMPT.value, message, param)

    def _prepared(self, question: Prepare) -> Prepared:
        prompt, engine = question.prompt, self._engine
        if prompt is None:
            return Prepared(question.request_id)
        if isinstance(prompt, Chat):
            parts, stop = self._prompts.of_chat(prompt), self._prompts.stop
            self._check_length(parts)
        else:
            parts, stop = self._prompts.of_text(prompt), ()
        ids = engine.tokenize(parts, begins=question.begins)
        prepared = Prepared(question.request_id, tuple(ids), stop=stop)
        if question.wants_text:
            n_added = len(ids) - len(engine.tokenize(parts, begins=False))
            prepared = replace(prepared, text="".join(parts), n_added=n_added)
        if question.wants_pieces:
            pieces = [text_of(engine, (token,)) for token in ids]
            prepared = replace(prepared, pieces=tuple(pieces))
        return prepared

    def _check_length(self, parts: Parts) -> None:
        """Refuse a chat whose prompt cannot fit, before time is spent on tokenizing it."""
        info = self._engine.info
        size, most = sum(len(part.encode()) for part in parts), info.n_ctx * info.max_token_bytes
        if size > most:
            is_near = size <= most + _NEAR_BYTES
            what = f"prompt has {size}" if is_near else "conversation is longer"
            message = (
                f"This model's maximum context length is {info.n_ctx} tokens, which hold {most}"
                f" bytes at most; the {what}."
            )
            raise PromptError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, message)


def _bound_time() -> None:
    """Have the kernel end this process if it takes too long from here on."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = math.ceil(usage.ru_utime + usage.ru_stime)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + MOST_CPU_S, most))
