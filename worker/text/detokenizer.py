"""Token bytes to text, whole characters only."""

from codecs import utf_8_decode


class Detokenizer:
    """Holds back the bytes of an unfinished UTF-8 character until the rest has come."""

    def __init__(self) -> None:
        """Start with nothing held back."""
        self._held = b""

    def push(self, token_bytes: bytes) -> str:
        """The text that these bytes complete; may be empty."""
        pending = self._held + token_bytes
        # What the incremental decoder of `codecs` does, without its layers.
        text, n_used = utf_8_decode(pending, "replace", False)
        self._held = pending[n_used:]
        return text

    def flush(self) -> str:
        """What is left at the end: a replacement character for an unfinished one."""
        held, self._held = self._held, b""
        return held.decode("utf-8", "replace")
