"""Preloaded, it loads the model as `worker.template` does, but takes its time."""

import time

LOAD_S = 3.0

time.sleep(LOAD_S)

import worker.template  # noqa: E402, F401
