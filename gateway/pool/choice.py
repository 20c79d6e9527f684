"""Which free slot a prompt costs least. Data only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.pool.prefix import Prefix, Slot
from gateway.pool.prefix_cache import PrefixCache

# Cost of evicting a cached token, relative to evaluating one: 1.0 while a never-used slot exists;
# otherwise up to this, less the longer the slot has been idle.
_WORTH_OF_NEWEST = 0.5
# What each generation that runs in a slot's worker costs the next one there, in tokens: it shares
# that worker's threads, while another worker may have a core to itself.
_COST_OF_COMPANY = 64
# What it costs to restore a token that was saved: with SmolLM2 135M (23 kB a token) 10 to 18 us,
# and as much to save it (50 us where memory is written for the first time), against 10 ms of
# prefill.
_COST_OF_SAVED = 1 / 64
# To copy from another slot is nearly free, but a conversation is better off in one slot.
_COST_OF_COPY = 1


class Choice(NamedTuple):
    """A slot for a prompt."""

    slot: Slot
    #: tokens of the prompt that it has itself
    own: int
    #: tokens of the prompt that need no evaluation there
    shared: int


def cheapest(
    prompt: Prefix,
    slots: Sequence[Slot],
    copied: Mapping[int, int],
    n_saved: int,
    company: Mapping[int, int],
    prefixes: PrefixCache,
) -> Choice:
    """The slot that a prompt costs least.

    Args:
        prompt: to be evaluated.
        slots: that are free, the one that has been idle longest first.
        copied: worker id -> tokens of the prompt that any of its slots can copy.
        n_saved: tokens of the prompt that can be restored anywhere.
        company: worker id -> how many generations it runs.
        prefixes: the prefix cache.
    """
    has_blank = any(slot.is_blank for slot in slots)

    def costs() -> Iterator[tuple[float, int, int, Choice]]:
        for age, slot in enumerate(slots):
            own, n_copied = prefixes.reusable(slot.cached, prompt), copied[slot.worker_id]
            shared = max(own, n_copied, n_saved)
            # Who repeats a prompt or goes on with it has no use for what was behind it.
            lost = 0 if slot.is_continued(own) else len(slot.cached) - own
            worth = 1.0 if has_blank else _WORTH_OF_NEWEST * (age + 1) / len(slots)
            if slot.saved in prefixes:
                worth = _COST_OF_SAVED
            cost = len(prompt) - shared + worth * lost
            cost += _COST_OF_COMPANY * company.get(slot.worker_id, 0)
            if shared > own:
                cost += _COST_OF_COPY if shared == n_copied else _COST_OF_SAVED * shared
            yield cost, lost, age, Choice(slot, own, shared)

    return min(costs(), key=lambda cost: cost[:3])[3]
