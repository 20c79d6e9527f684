"""The HTTP handlers."""
