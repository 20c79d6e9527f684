"""Token bytes to text, whole characters only."""

import codecs


class Detokenizer:
    """Holds back the bytes of an unfinished UTF-8 character until the rest has come."""

    def __init__(self) -> None:
        """Start with nothing held back."""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_bytes: bytes) -> str:
        """The text that these bytes complete; may be empty."""
        return self._decoder.decode(token_bytes)

    def flush(self) -> str:
        """What is left at the end: a replacement character for an unfinished one."""
        return self._decoder.decode(b"", final=True)
