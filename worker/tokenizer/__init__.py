"""Text to token ids and back, by nothing but what a model file holds."""
