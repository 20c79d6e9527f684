"""Chat templates: which one, how far it is trusted, and the prompt that it makes."""
