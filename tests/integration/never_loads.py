"""Preloaded, it keeps the zygote from ever being ready."""

import signal

signal.pause()
