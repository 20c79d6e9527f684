"""How many threads an evaluation uses: this worker's share of the cores, unless they are taken.

ggml's threads wait for one another in a busy loop, hundreds of times in an evaluation. That is
fastest on cores of their own; but where another program takes one of the cores, each wait can
last until the kernel's scheduler changes its mind, and an evaluation takes a hundred times as long.
"""

# Of the CPU time that the threads would have used on cores of their own. One that gets a core to
# itself uses all of it, since it never sleeps.
_CROWDED = 0.75
# A loss smaller than this is not worth a reaction.
_NOTICEABLE_S = 0.005
# How much of the time may be lost in trying whether the cores are free again.
_COST_OF_TRYING = 0.05
_LONGEST_PAUSE_S = 60.0
# A core that another worker has just left is often taken again at once, by the next request of the
# same client. An evaluation that meets it there takes several times as long as one of one thread.
_UNTIL_TAKEN_S = 0.05


class ThreadShare:
    """Chooses the threads of each evaluation, and learns from how it went."""

    def __init__(self, share: int) -> None:
        #: how many threads this worker may use at present
        self.share = share
        self._next_share = share
        self._grows_at_s = 0.0
        self._fitting = share
        self._pause_until_s = 0.0

    @property
    def is_one_thread(self) -> bool:
        """Whether there is nothing to choose: one thread now, and no more to come."""
        return self.share == 1 == self._next_share

    def set_share(self, share: int, now_s: float, is_running: bool) -> None:
        """Take note of how many threads this worker may use.

        Fewer are used from the next evaluation on. More are taken in a running generation only
        when they have been this worker's for a moment; one that begins takes them at once.
        """
        self._next_share = share
        self._grows_at_s = now_s + _UNTIL_TAKEN_S if is_running else now_s
        self.share = min(share, self.share) if is_running else share

    def choose(self, now_s: float) -> int:
        """The number of threads for an evaluation that begins at ``now_s``."""
        if now_s >= self._grows_at_s:
            self.share = self._next_share
        if now_s < self._pause_until_s:
            return min(self.share, self._fitting)
        return self.share

    def learn(self, threads: int, wall_s: float, cpu_s: float, now_s: float) -> None:
        """Take note of an evaluation that has just ended; CPU time is that of all its threads."""
        lost_s = wall_s - cpu_s / threads
        if threads == 1 or lost_s < _NOTICEABLE_S or cpu_s >= _CROWDED * threads * wall_s:
            return
        self._pause_until_s = now_s + min(lost_s / _COST_OF_TRYING, _LONGEST_PAUSE_S)
        self._fitting = max(1, min(threads - 1, int(cpu_s / wall_s)))
