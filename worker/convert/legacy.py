"""What the legacy layouts of all families have in common: vocabulary, and what they fix or lack."""

from shared.model.description import END_OF_TEXT
from worker.convert.config import Config
from worker.convert.source import ModelFolder
from worker.convert.special_tokens import read_special_tokens
from worker.convert.vocabulary import Vocabulary, read_byte_level


def require_epsilon(config: Config, key: str) -> None:
    """Check the layer norms' epsilon, for which legacy headers have no field.

    Raises:
        UsageError: it is not what the engine computes with.
    """
    config.require_number(key, 1e-5, 1e-5, "the engine's code for this layout has 1e-05 built in")


def require_inner(config: Config, key: str, n_embd: int) -> None:
    """Check the width of the feed-forward layers, for which legacy headers have no field.

    Raises:
        UsageError: it is not what the engine takes for granted.
    """
    n_inner = config.count(key, 4 * n_embd)
    if n_inner != 4 * n_embd:
        config.fail(f"{key} is {n_inner}; this layout fixes it at 4 times the width, {4 * n_embd}")


def read_vocabulary(
    folder: ModelFolder,
    n_vocab: int,
    pre: str,
    normalizer: str | None = None,
    holds_merges: bool = False,
) -> tuple[Vocabulary, tuple[str, ...]]:
    """Read the vocabulary, and note what a legacy file cannot say of it.

    Args:
        folder: the source.
        n_vocab: rows of the embedding.
        pre: how tokenizers of the family split text, by llama.cpp's name.
        normalizer: what they do to it before.
        holds_merges: whether the layout has a place for merges; else they are made anew from the
            tokens when the file is served.

    Raises:
        UsageError: there is none that fits.
    """
    vocabulary = read_byte_level(folder).fitted(n_vocab)
    notes = []
    is_usual = (vocabulary.pre, vocabulary.normalizer) == (pre, normalizer)
    if not (is_usual and (holds_merges or vocabulary.can_be_rebuilt)):
        notes.append(
            "its tokenizer is not the family's usual one, and this layout cannot hold the "
            f"difference: serve it together with {vocabulary.origin}"
        )
    special = read_special_tokens(folder, vocabulary.tokens)
    if special.chat_template is not None:
        notes.append("its chat template stays behind: this layout has no place for it")
    if special.eos is not None and vocabulary.tokens[special.eos] != END_OF_TEXT:
        text = vocabulary.tokens[special.eos].decode("utf-8", "replace")
        notes.append(f"this layout cannot say that {text!r} ends its texts: give it as a stop text")
    if special.add_bos:
        notes.append("this layout cannot say that its prompts begin with a token: write it first")
    return vocabulary, tuple(notes)
