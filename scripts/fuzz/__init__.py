"""Fuzzers of a server over HTTP: spoiled bytes, and its own OpenAPI document."""
