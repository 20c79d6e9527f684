"""Starts the server: ``python main.py``; see ``gateway/__main__.py``."""

import sys

from gateway.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
