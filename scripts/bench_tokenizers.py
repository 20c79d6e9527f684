"""Measures how long each family's tokenizer takes for 100 KB of text, and whether that is linear.

The vocabulary is the demo model's, of 49,152 tokens, its merges rebuilt as from a legacy file; what
differs is how each family cuts text into pieces. Prints a table in Markdown.
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gateway import demo_model  # noqa: E402
from shared.model.description import Family  # noqa: E402
from shared.model.inspect import inspect  # noqa: E402
from worker.tokenizer.tokenizer import Tokenizer, build_tokenizer  # noqa: E402
from worker.tokenizer.vocabulary import Vocabulary  # noqa: E402

N_BYTES = 100_000
ROUNDS = 7
PATTERNS = {"letters": "a", "spaces": " ", "digits": "7", "CJK": "語", "emoji": "🙂"}


def main() -> None:
    """Measure, and print the table."""
    file = inspect(demo_model.fetch())
    mixed = (ROOT / "tests" / "data" / "lines.txt").read_text("utf-8")
    texts = {
        "mixed": cut(mixed * 3),
        **{name: cut(one * N_BYTES) for name, one in PATTERNS.items()},
    }
    print(f"| family | built in | {' | '.join(texts)} | 400 KB ÷ 100 KB, mixed |")
    print("|---" * (len(texts) + 3) + "|")
    for family in Family:
        # A legacy file of that family: a vocabulary, and nothing else.
        legacy = replace(file, family=family, merges=None, pre_tokenizer=None, add_bos=False)
        started = time.perf_counter()
        tokenizer = build_tokenizer(legacy, Vocabulary.from_model(legacy), no_library)
        built_s = time.perf_counter() - started
        times = [milliseconds(tokenizer, text) for text in texts.values()]
        longer = milliseconds(tokenizer, cut(mixed * 12, 4 * N_BYTES))
        cells = " | ".join(f"{value:.0f} ms" for value in times)
        print(
            f"| {family.value} | {built_s:.2f} s | {cells} | {longer / times[0]:.1f} |", flush=True
        )


def cut(text: str, n_bytes: int = N_BYTES) -> str:
    """The start of a text."""
    return text.encode()[:n_bytes].decode("utf-8", "ignore")


def milliseconds(tokenizer: Tokenizer, text: str) -> float:
    """The median time to tokenize a text."""
    times = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        tokenizer.encode((text,))
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def no_library(text: bytes) -> list[int]:
    """Stand in for the engine's library, which no BPE vocabulary needs."""
    raise AssertionError("not a BPE vocabulary")


if __name__ == "__main__":
    main()
