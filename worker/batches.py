"""Batches: what a step evaluates, and how the cells of the KV cache are shared."""

import time
from collections import defaultdict
from collections.abc import Sequence as Items
from typing import TypeAlias

from shared.logging import request_id_var
from shared.messages import Generate
from shared.saved_prefix import Region
from worker.engines.base import CacheFullError, Engine, Logits, SlotTokens
from worker.pace import Pace, in_turn
from worker.prefix_memory import PrefixMemory
from worker.sequence import Sequence
from worker.threads import ThreadShare

Part: TypeAlias = tuple[Sequence, SlotTokens]
Row: TypeAlias = Logits | Exception | None
"""What an evaluation has yielded for one slot."""

# A sequence that has waited for room in the cache runs again when there is so large a part of the
# context more than there was: it would soon have to wait again.
_ROOM_TO_GROW = 16
# Rows of short inputs of an embedding model that are evaluated together.
_MOST_TO_POOL = 512


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
        # The oldest first.
        self._sequences = sequences
        self._threads = threads
        self._n_threads = 1
        # By the number of threads.
        self._paces: defaultdict[int, Pace] = defaultdict(Pace)
        # Whose turn it is where a batch has fewer rows than there are sequences.
        self._first = 0
        self._had_prompts = False
        # Slots, the one that has rested longest first.
        self._resting = dict.fromkeys(range(engine.n_slots))
        # Slots of sequences for which the cache has no room, and how many tokens those that ran
        # had together when it was full.
        self._paused: set[int] = set()
        self._too_many = 0
        # Whether one has ended since: until then room only gets less.
        self._has_ended = False

    def schedule(self) -> list[Part]:
        """The batch of this step: a token of each that decodes, then parts of prompts."""
        self._resume()
        self._n_threads = self._threads.choose(time.monotonic())
        active = [each for slot, each in self._sequences.items() if slot not in self._paused]
        prompts = in_turn([sequence for sequence in active if len(sequence.pending) > 1])
        decoding = self._by_turns(
            [sequence for sequence in active if len(sequence.pending) == 1], bool(prompts)
        )
        parts = [self._part(sequence, 1) for sequence in decoding]
        parts += self._parts_of_prompts(prompts, self._room(prompts, len(decoding)))
        self._had_prompts = len(parts) > len(decoding)
        return parts

    def _by_turns(self, decoding: list[Sequence], are_prompts_there: bool) -> list[Sequence]:
        """As many as a batch has rows for, others the next time."""
        n = self._engine.batch_size
        if are_prompts_there:  # one row is theirs; where there is but one, every other time
            n = n - 1 if n > 1 else int(self._had_prompts)
        if len(decoding) <= n:
            return decoding
        first = self._first % len(decoding)
        self._first = first + n
        return [*decoding[first:], *decoding[:first]][:n]

    def _room(self, prompts: Items[Sequence], n_decoding: int) -> int:
        """For how many rows of prompts there is room beside those that decode."""
        left = self._engine.batch_size - n_decoding
        if self._engine.info.generates:
            room = self._pace.room(n_decoding)
            return left if room is None else min(room, left)
        # A cancellation is seen between evaluations, so they are no longer than they must be.
        longest = len(prompts[0].pending) if prompts else 0
        return min(left, max(_MOST_TO_POOL, longest))

    @property
    def _pace(self) -> Pace:
        return self._paces[self._n_threads]

    def _parts_of_prompts(self, prompts: Items[Sequence], room: int) -> list[Part]:
        parts = []
        for sequence in prompts:
            n = min(room, self._engine.chunk_size(sequence.request.slot))
            if n < 1 or (not self._engine.info.generates and n < len(sequence.pending)):
                continue  # an embedding is pooled of what is evaluated together
            parts.append(self._part(sequence, n))
            room -= len(parts[-1][1].tokens)
        return parts

    def _part(self, sequence: Sequence, n: int) -> Part:
        request, chunk = sequence.request, sequence.take_chunk(n)
        return sequence, SlotTokens(request.slot, chunk, sequence.wants_logits, request.embeds)

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
        return self._forward_one_by_one(batch)

    def _forward_one_by_one(self, batch: Items[Part]) -> Items[Row]:
        """One of them is at fault; the others go on, but for those that have to make room."""
        rows: dict[int, Row] = {}
        for part in batch:
            slot = part[1].slot
            (row,) = (None,) if slot in self._paused else self.forward([part])
            # A copy, since the next evaluation may overwrite it.
            rows[slot] = row if row is None or isinstance(row, Exception) else row.copy()
        for slot in self._paused.intersection(rows):
            rows[slot] = None
        return list(rows.values())

    def _forward_in_room(self, batch: Items[Part], error: CacheFullError) -> Items[Row]:
        """Clear the slot that has rested longest; if all run, pause the youngest of them.

        So the oldest always goes on, and each becomes the oldest one day.
        """
        if self._clear_oldest():
            return self.forward(batch)
        running = [slot for slot in self._sequences if slot not in self._paused]
        if len(running) == 1:
            return [error]
        slot = running[-1]
        self._too_many = sum(self._sequences[each].n_tokens for each in running)
        self._engine.reuse_prefix(slot, ())
        self._sequences[slot].rewind()
        self._paused.add(slot)
        self._has_ended = False
        rows = iter(self.forward([part for part in batch if part[1].slot != slot]))
        return [None if part.slot == slot else next(rows) for _, part in batch]

    def _resume(self) -> None:
        """Let those run again that find more room between older ones than there was.

        Younger ones do not count: where the room is not enough, they are who waits.
        """
        if not self._paused or not self._has_ended:
            return
        self._has_ended = False
        most, n_older = self._too_many - self._engine.info.n_ctx // _ROOM_TO_GROW, 0
        for slot, sequence in self._sequences.items():
            if not n_older or n_older + sequence.n_tokens <= most:
                self._paused.discard(slot)
            if slot not in self._paused:
                n_older += sequence.n_tokens

    def _evaluate(self, batch: list[SlotTokens]) -> list[Logits | None]:
        threads, is_alone = self._n_threads, self._threads.is_one_thread
        began_s = time.monotonic()
        began_cpu_s = 0.0 if is_alone else time.process_time()
        rows = self._engine.forward(batch, threads)
        now_s = time.monotonic()
        if not is_alone:  # with one thread there is nothing to choose
            cpu_s = time.process_time() - began_cpu_s
            self._threads.learn(threads, now_s - began_s, cpu_s, now_s)
        sizes = [len(part.tokens) for part in batch]
        n_decoding = sizes.count(1)
        self._pace.learn(n_decoding, sum(sizes) - n_decoding, now_s - began_s)
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
        self._paused.discard(slot)
        self._has_ended = True
