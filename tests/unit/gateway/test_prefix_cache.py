"""Tests of the prefix cache: what is where, and what may be taken away."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.pool.prefix import Entry, Prefix
from gateway.pool.prefix_cache import LEAST_TOKENS, PrefixCache

SIZE = 40 * 4096
WORKERS = st.integers(0, 2)


def prefix(*parts: tuple[int, int]) -> Prefix:
    """So many tokens of each kind."""
    return Prefix(tuple(token for token, n in parts for _ in range(n)))


def written(cache: PrefixCache, of: Prefix, size: int = 4096, worker: int = 0) -> Entry:
    entry, is_new = cache.keep(of, size, worker)
    assert entry is not None and is_new
    cache.settle(entry.region, is_whole=True)
    return entry


class PrefixCacheMachine(RuleBasedStateMachine):
    """Workers save and read, answer or die, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(SIZE)
        # By worker: what it is writing, and what it is reading.
        self.writing: list[tuple[int, Entry]] = []
        self.reading: list[tuple[int, Entry]] = []
        self.written: set[Entry] = set()

    @rule(worker=WORKERS, n=st.integers(1, 6), tail=st.integers(0, 5), size=st.integers(1, SIZE))
    def save(self, worker: int, n: int, tail: int, size: int) -> None:
        entry, is_new = self.cache.keep(prefix((1, n * 20), (2 + tail, 40)), size, worker)
        if is_new:
            assert entry is not None and entry.region.size == size
            self.writing.append((worker, entry))

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), is_whole=st.booleans())
    def answer(self, data: st.DataObject, is_whole: bool) -> None:
        _, entry = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        self.cache.settle(entry.region, is_whole=is_whole)
        assert (entry in self.cache) is is_whole
        if is_whole:
            self.written.add(entry)

    @rule(worker=WORKERS, n=st.integers(1, 120))
    def read(self, worker: int, n: int) -> None:
        prompt = prefix((1, n), (9, 40))
        entry, shared = self.cache.longest(prompt)
        there = [each for each in self.written if each in self.cache]
        best = max((each.prefix.shared_length(prompt) for each in there), default=0)
        assert shared == (best if best >= 32 else 0), "the longest, by whole blocks at least"
        if entry is not None:
            assert entry in self.written, "nothing is read before it has been written"
            self.cache.read(entry, worker)
            self.reading.append((worker, entry))

    @precondition(lambda self: self.reading)
    @rule(data=st.data())
    def has_read(self, data: st.DataObject) -> None:
        worker, entry = self.reading.pop(data.draw(st.integers(0, len(self.reading) - 1)))
        self.cache.release(entry, worker)

    @rule(worker=WORKERS)
    def worker_dies(self, worker: int) -> None:
        self.cache.forget(worker)
        assert not any(entry in self.cache for of, entry in self.writing if of == worker)
        self.writing = [each for each in self.writing if each[0] != worker]
        self.reading = [each for each in self.reading if each[0] != worker]

    @invariant()
    def what_is_in_use_stays_and_nothing_overlaps(self) -> None:
        assert all(entry in self.cache for _, entry in (*self.writing, *self.reading))
        entries = sorted(self.cache.entries, key=lambda entry: entry.region.offset)
        ends = [0, *(entry.end for entry in entries)]
        assert all(end <= entry.region.offset for end, entry in zip(ends, entries, strict=False))
        assert ends[-1] <= SIZE
        assert self.cache.status.used_bytes <= SIZE
        in_use = {entry for _, entry in (*self.writing, *self.reading)}
        assert {entry for entry in entries if entry.is_pinned} == in_use


TestPrefixCacheMachine = PrefixCacheMachine.TestCase
TestPrefixCacheMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_a_longer_state_takes_the_place_of_its_part_once_it_is_written() -> None:
    cache = PrefixCache(SIZE)
    short = written(cache, prefix((1, 100)))
    longer, is_new = cache.keep(prefix((1, 100), (2, 40)), 4096, 0)
    assert longer is not None and is_new and short in cache
    cache.settle(longer.region, is_whole=True)
    assert short not in cache and longer in cache
    assert cache.keep(prefix((1, 100), (2, 20)), 4096, 0) == (longer, False)
    assert cache.keep(prefix((3, LEAST_TOKENS - 1)), 4096, 0) == (None, False)


def test_what_cannot_be_cut_is_found_only_by_what_goes_on_with_it() -> None:
    cache = PrefixCache(SIZE)
    cache.most_rewound = 64
    first, second = prefix((1, 100)), prefix((1, 100), (2, 50))
    kept = [written(cache, each) for each in (first, second)]
    assert kept[0] in cache, "the way back to it"
    assert cache.longest(prefix((1, 100), (2, 50), (3, 5))) == (kept[1], 150)
    assert cache.longest(prefix((1, 100), (2, 40), (3, 5))) == (kept[0], 100)
    assert cache.longest(prefix((1, 90), (3, 5))) == (None, 0)


def test_the_one_that_was_used_the_longest_ago_goes_first() -> None:
    cache = PrefixCache(3 * 4096)
    a, b, c = (written(cache, prefix((token, 40))) for token in (1, 2, 3))
    cache.read(a, 0)
    cache.release(a, 0)
    written(cache, prefix((4, 40)))
    assert (a in cache, b in cache, c in cache) == (True, False, True)
    assert cache.keep(prefix((5, 40)), 4 * 4096, 0) == (None, False)
    assert a in cache and c in cache, "nothing goes for what has no room at all"
