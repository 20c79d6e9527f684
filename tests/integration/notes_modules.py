"""Preloaded, it takes note of what each fork of the zygote has been born with."""

import os
import sys

born_with: set[str] = set()

os.register_at_fork(after_in_child=lambda: born_with.update(sys.modules))
