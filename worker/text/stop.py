"""Stop strings: found across pieces of text, never part of what is emitted."""

from collections.abc import Sequence

from shared.overlap import overlap


class StopMatcher:
    """Passes text through, holding back any end that may turn out to begin a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Watch for ``stops``, none of them empty."""
        self._stops = tuple(stops)
        # What a held back end can end with: most texts end otherwise, and need no closer look.
        self._inner = frozenset("".join([stop[:-1] for stop in stops]))
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Take a further piece of text.

        Returns:
            What may be emitted now, and whether a stop string was found. After that nothing more
            may be pushed.
        """
        if not self._stops:
            return text, False
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            # The one that ends first, whichever begins first: so the pieces make no difference.
            _, start = min(found)
            self._held = ""
            return text[:start], True
        if text[-1:] not in self._inner:
            self._held = ""
            return text, False
        n_emit = len(text) - max([overlap(text, stop) for stop in self._stops])
        self._held = text[n_emit:]
        return text[:n_emit], False

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held
