"""Tokens with a meaning of their own, as each family's tokenizers have them."""

FALCON_SPECIAL = (
    ">>TITLE<<", ">>ABSTRACT<<", ">>INTRODUCTION<<", ">>SUMMARY<<", ">>COMMENT<<", ">>ANSWER<<",
    ">>QUESTION<<", ">>DOMAIN<<", ">>PREFIX<<", ">>SUFFIX<<", ">>MIDDLE<<", "<|endoftext|>",
)  # fmt: skip
STARCODER_SPECIAL = (
    "<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>", "<filename>",
    "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>", "<jupyter_start>",
    "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>", "<commit_before>",
    "<commit_msg>", "<commit_after>", "<reponame>",
)  # fmt: skip
STARCHAT_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>",
                 "<|end_header_id|>", "<|eot_id|>")  # fmt: skip
NEOX_SPECIAL = ("<|endoftext|>", "<|padding|>")
SPACES = tuple(" " * n for n in range(24, 1, -1))
"""Runs of spaces that GPT-NeoX and MPT have as tokens, the longest first."""
