"""Preloaded, it makes the zygote take its time."""

import time

LOAD_S = 3.0

time.sleep(LOAD_S)
