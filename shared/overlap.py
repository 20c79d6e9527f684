"""How much of a text may turn out to begin a mark that has not come whole yet."""


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that ``mark`` begins with, but is longer than."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
