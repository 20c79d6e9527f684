"""Model files: what they hold, whether they are sound, and what the engine needs for them."""
