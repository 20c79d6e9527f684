"""From the bytes of tokens to the text that is emitted."""
