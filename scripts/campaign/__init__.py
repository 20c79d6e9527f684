"""Faults, rubbish and load against a real server, and an oracle that sees what comes of it."""
