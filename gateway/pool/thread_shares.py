"""How many threads each worker may use. Data only."""

from collections.abc import Iterable, Iterator, Mapping


class ThreadShares:
    """The same for all that run: those there are, divided by how many run."""

    def __init__(self, threads: int) -> None:
        """Begin with ``threads`` in all, and no workers."""
        self._threads = self._share = threads
        self._threads_of: dict[int, int] = {}

    @property
    def scarcity(self) -> float:
        """How many times as long an evaluation may take as with all threads, at least 1."""
        return self._threads / self._share

    def add_worker(self, worker_id: int) -> None:
        """A worker is ready; at first it uses all."""
        self._threads_of[worker_id] = self._threads

    def share(
        self, running: Mapping[str, int], started: Iterable[int]
    ) -> Iterator[tuple[int, int]]:
        """Share the threads out anew.

        Args:
            running: request id -> worker id.
            started: those of the workers that have just got something to run; unless the share is
                another than before, only they may not know it.

        Yields:
            Workers that have to be told, and their new number of threads.
        """
        threads = max(1, self._threads // max(1, len(running)))
        if threads != self._share:
            self._share, started = threads, running.values()
        for worker_id in started:
            if self._threads_of[worker_id] != threads:
                self._threads_of[worker_id] = threads
                yield worker_id, threads
