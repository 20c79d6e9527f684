"""Benchmarks of the server, against the bare engine and against other servers."""
