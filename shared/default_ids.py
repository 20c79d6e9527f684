"""Ids of tokens that ctransformers 0.2.27 takes for granted where a file does not name them."""

END_OF_TEXT = b"<|endoftext|>"
"""The token that ends texts, and begins them, in most byte-level BPE vocabularies."""
BPE_EOS = 11
"""Falcon's id of it, which the library takes for every byte-level BPE vocabulary."""
SENTENCEPIECE_BOS = 1
SENTENCEPIECE_EOS = 2
