"""Batches: what a step evaluates, and how the cells of the KV cache are shared."""

import time
from collections.abc import Sequence as Items
from typing import TypeAlias

from shared.logging import request_id_var
from shared.messages import Generate
from shared.saved_prefix import Region
from worker.engines.base import CacheFullError, Engine, Logits, SlotTokens
from worker.prefix_memory import PrefixMemory
from worker.sequence import Sequence
from worker.threads import ThreadShare

Part: TypeAlias = tuple[Sequence, SlotTokens]
Row: TypeAlias = Logits | Exception | None
"""What an evaluation has yielded for one slot."""


class Batches:
    """Makes and evaluates the batches of a loop, whose ``sequences`` by slot it sees."""

    def __init__(
        self,
        engine: Engine,
        sequences: dict[int, Sequence],
        threads: ThreadShare,
        memory: PrefixMemory | None = None,
    ) -> None:
        self._engine = engine
        self._memory = memory
        self._sequences = sequences
        self._threads = threads
        # Slots, the one that has rested longest first.
        self._resting = dict.fromkeys(range(engine.n_slots))
        # Sequences for which the cache has no room until another has ended.
        self._paused: set[int] = set()

    def schedule(self) -> list[Part]:
        """The batch of this step: a token of each that decodes, then parts of prompts."""
        room, info, parts = self._engine.batch_size, self._engine.info, []
        sequences = list(self._sequences.items())
        for is_long in (False, True):
            for slot, sequence in sequences:
                if (len(sequence.pending) > 1) is not is_long or slot in self._paused or not room:
                    continue
                if not info.generates and room < len(sequence.pending):
                    continue  # an embedding is pooled of what is evaluated together
                chunk = sequence.take_chunk(min(room, self._engine.chunk_size(slot)))
                room -= len(chunk)
                part = SlotTokens(slot, chunk, sequence.wants_logits, sequence.request.embeds)
                parts.append((sequence, part))
        return parts

    def forward(self, batch: Items[Part]) -> Items[Row]:
        if not batch:
            return ()
        request_id_var.set(batch[0][0].request.trace_id if len(batch) == 1 else "")
        tokens = [part for _, part in batch]
        try:
            return self._evaluate(tokens)
        except CacheFullError as error:
            return self._forward_in_room(batch, error)
        except Exception as error:
            if len(tokens) == 1:
                return [error]
        # One of them is at fault; the others go on.
        rows: list[Row] = []
        for part in tokens:
            try:
                # A copy, since the next evaluation may overwrite it.
                rows += [None if row is None else row.copy() for row in self._evaluate([part])]
            except Exception as error:
                rows.append(error)
        return rows

    def _forward_in_room(self, batch: Items[Part], error: CacheFullError) -> Items[Row]:
        """Clear the slot that has rested longest; if all run, pause the youngest of them."""
        if self._clear_oldest():
            return self.forward(batch)
        running = [slot for slot in self._sequences if slot not in self._paused]
        if len(running) == 1:
            return [error]
        slot = running[-1]
        self._engine.reuse_prefix(slot, ())
        self._sequences[slot].rewind()
        self._paused.add(slot)
        rows = iter(self.forward([part for part in batch if part[1].slot != slot]))
        return [None if part.slot == slot else next(rows) for _, part in batch]

    def _evaluate(self, batch: list[SlotTokens]) -> list[Logits | None]:
        if self._threads.is_one_thread:  # nothing to choose, and nothing to learn
            return self._engine.forward(batch, 1)
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        threads = self._threads.choose(began_s)
        rows = self._engine.forward(batch, threads)
        now_s = time.monotonic()
        self._threads.learn(threads, now_s - began_s, time.process_time() - began_cpu_s, now_s)
        return rows

    def _clear_oldest(self) -> bool:
        """Clear the slot that has rested longest; False if there is none that rests."""
        slot = next((each for each in self._resting if each not in self._sequences), None)
        if slot is None:
            return False
        del self._resting[slot]
        self._engine.reuse_prefix(slot, ())
        return True

    def state_bytes(self, slot: int) -> int:
        """What a slot's cache takes of the prefix cache; 0 if there is none to save it in."""
        return 0 if self._memory is None else self._engine.state_bytes(slot)

    def save(self, slot: int, region: Region) -> bool:
        """Save a slot's cache; False if it is not the one any more that was to be saved."""
        is_another = slot in self._sequences or self.state_bytes(slot) != region.size
        if is_another or self._memory is None:
            return False
        with self._memory.region(region) as into:
            return self._engine.save(slot, into)

    def reuse_prefix(self, request: Generate) -> tuple[int, int]:
        """Give a slot the most there is of a prompt, of what the slots have or what was saved.

        Returns:
            How many tokens need no evaluation, and how many of them had been saved.
        """
        slot, prompt, saved = request.slot, list(request.ids), request.saved
        if request.echoes_from is not None and request.logprobs is not None:
            # Of what is cached nobody knows the logits.
            return self._engine.reuse_prefix(slot, prompt, most=0), 0
        n_cached = self._engine.reuse_prefix(slot, prompt)
        if saved is None or self._memory is None:
            return n_cached, 0
        if n_cached >= min(saved.n_tokens, len(prompt) - 1):
            return n_cached, 0
        with self._memory.region(saved.region) as state:
            known = prompt[: saved.n_tokens]
            while not self._engine.restore(slot, known, state) and self._clear_oldest():
                pass
        n = self._engine.reuse_prefix(slot, prompt)
        return n, n if n > n_cached else 0

    def drop(self, slot: int) -> None:
        """A sequence has ended; its cache stays until the room is needed."""
        self._sequences.pop(slot, None)
        self._resting.pop(slot, None)
        self._resting[slot] = None
        self._paused.clear()
