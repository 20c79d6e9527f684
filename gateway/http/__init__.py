"""The HTTP side of connections: what clients may take of time and memory before a route answers."""
