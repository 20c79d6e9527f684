"""Decides which prefix workers are born with, and has templates made that hold it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from gateway.pool.base import TemplateStatus
from gateway.pool.fork_server import NotWarmed
from gateway.pool.learning import Arrival, PrefixLearner
from gateway.pool.prefix import EMPTY, Prefix
from gateway.pool.template import Template
from gateway.pool.template_watch import TemplateWatch

logger = logging.getLogger(__name__)

Prompt = tuple[int, ...]
"""Token ids."""

MOST_TEMPLATES = 2
"""Of those with a prefix, each of which holds a KV cache.

One lives for as long as its last worker; until there are fewer again, nothing is learned.
"""


class Warming:
    """The prefix of the newest template, and the search for a better one.

    Attributes:
        newborn: the text in the KV cache of a new worker.
        status: what workers are forked from.
    """

    def __init__(
        self,
        template: Template,
        target: Callable[..., None] | None,
        changed: Callable[[], None],
        *,
        learns: bool,
    ) -> None:
        """Begin with nothing.

        Args:
            template: what workers are forked from.
            target: body of a template's process; see `worker.main.run_template`. Without it there
                are no prefixes.
            changed: called when there is a new `newborn`.
            learns: whether to look for a prefix in what arrives.
        """
        self.newborn = EMPTY
        self.status = TemplateStatus()
        self._template = template
        self._target = target
        self._learner = PrefixLearner()
        self._changed = changed
        self._learns = learns and target is not None
        # The prefix that was asked for, and those of the generations that workers may be from.
        self._asked = EMPTY
        self._born = {0: (EMPTY, 0)}
        self._prompts: tuple[Prompt, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._watch = TemplateWatch(template, self._on_prefix_lost)

    async def ask(self, prompts: tuple[Prompt, ...]) -> None:
        """Have all workers born with what the prompts begin with, before anything is served.

        Raises:
            NotWarmed: that cannot be.
        """
        await self._warm(prompts, is_urgent=True)
        self._asked = self.newborn

    def note(self, prefix: Prefix, prompt: Prompt, chars_per_token: float) -> None:
        """Take note of a prompt that continued no conversation; may start work in background."""
        if not self._learns or self._task is not None:
            return
        found = self._learner.learn(Arrival(prefix, prompt), self.newborn, chars_per_token)
        if not found or self._template.generations_alive >= MOST_TEMPLATES:
            return
        # What was asked for is kept: only what goes on from there is learned.
        if all(self._asked.shared_length(each.prefix) == len(self._asked) for each in found):
            self._begin(tuple(each.prompt for each in found), learned=1)

    def born(self, generation: int) -> tuple[Prefix, int]:
        """What a fork of a template has in its KV cache: the text, and how many tokens."""
        return self._born.get(generation, (EMPTY, 0))

    def check(self) -> None:
        """See whether the newest template is still there; if not, it is made again.

        From the first time on, the death of a template is noticed without that.
        """
        self._watch.look()
        if self._closing:
            return
        if self._prompts and self._template.generation == 0 and self._task is None:
            self.newborn = EMPTY
            self.status = replace(self.status, generation=0, prefix_tokens=0)
            self._changed()
            self._begin(self._prompts, learned=0)

    def begin_close(self) -> None:
        """Begin nothing more, and be silent about what fails now."""
        self._closing = True
        self._watch.begin_close()

    async def close(self) -> None:
        """Wait for what is going on; the template must have been killed."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self._watch.close()

    async def _warm(
        self, prompts: tuple[Prompt, ...], *, is_urgent: bool, learned: int = 0
    ) -> None:
        if self._target is None:
            raise NotWarmed("this server's workers cannot be born with a prefix")
        generation, n_tokens = await asyncio.to_thread(
            self._template.warm, self._target, prompts, is_urgent
        )
        first, *others = (Prefix(prompt) for prompt in prompts)
        length = min((first.shared_length(other) for other in others), default=len(first))
        self._prompts = prompts
        self.newborn = Prefix(first.ids[:length])
        recent = {each: self._born[each] for each in (0, self.status.generation)}
        self._born = {**recent, generation: (self.newborn, n_tokens)}
        self.status = TemplateStatus(generation, n_tokens, self.status.learned + learned)
        logger.info("template %d holds a prefix of %d tokens", generation, n_tokens)
        self._watch.look()
        self._changed()

    def _on_prefix_lost(self) -> None:
        if self._template.forget_dead():
            self.check()

    def _begin(self, prompts: tuple[Prompt, ...], learned: int) -> None:
        if not self._closing:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._warm_quietly(prompts, learned))

    async def _warm_quietly(self, prompts: tuple[Prompt, ...], learned: int) -> None:
        try:
            await self._warm(prompts, is_urgent=False, learned=learned)
        except Exception as error:  # whatever it is, workers can be forked without a prefix
            # What has failed once is not tried at every request.
            self._learns = False
            self._prompts = ()
            if not self._closing:
                logger.warning("no template could be made for a prefix, and none will: %s", error)
        finally:
            self._task = None
