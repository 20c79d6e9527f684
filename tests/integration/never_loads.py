"""Preloaded, it keeps the template from ever being ready."""

import signal

signal.pause()
