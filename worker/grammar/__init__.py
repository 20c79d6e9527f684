"""Grammars that bind completions: compiled, tried, and followed token by token."""
