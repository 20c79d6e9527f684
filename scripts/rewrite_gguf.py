#!/usr/bin/env python3
"""Rewrites a GGUF file so that ctransformers 0.2.27 can load it."""

import argparse
import sys
from pathlib import Path

# Works from a checkout, too, where nothing is installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shared.errors import UsageError
from shared.model.gguf_rewrite import rewrite, stderr_progress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a GGUF file, left untouched")
    parser.add_argument("target", type=Path, metavar="TARGET", help="where the copy is written")
    arguments = parser.parse_args()
    try:
        rewrite(arguments.source, arguments.target, stderr_progress("rewriting"))
    except UsageError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
