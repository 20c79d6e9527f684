"""From a chat or a text to the token ids of a prompt."""
