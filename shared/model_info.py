"""What a worker tells of the model that it has loaded."""

from dataclasses import dataclass

PLAIN_ORIGIN = "nothing better is known of this model"
"""Where a chat format comes from when there was nothing to choose it by."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the gateway needs to know of a loaded model.

    Attributes:
        family: the architecture, e.g. ``llama``.
        n_ctx: context length in tokens, prompt and completion together.
        n_vocab: how many token ids there are.
        max_token_bytes: length of the longest token's text in bytes; a prompt of more than
            ``n_ctx * max_token_bytes`` bytes cannot fit.
        chat_template: the Jinja template that chats get; the model's own, if its file carries one,
            until the process that loads the model has chosen.
        chat_format: its name.
        chat_format_origin: where it comes from, for people.
        bos_token: text of the begin-of-sequence token, for the template; may be empty.
        eos_token: text of the end-of-sequence token, for the template; may be empty.
        fim_tokens: texts of the tokens before the prefix, the suffix and the middle of a text to
            be filled in; None if the model has not learned that.
        can_rewind: whether a KV cache can be cut back to a part of what it holds.
        n_embd: how many numbers an embedding has; 0 if the engine gives none for this family.
        n_ctx_train: context length in tokens that the model was made for; 0 if unknown.
        quantisation: of the weights, e.g. ``Q4_0``; empty if there are none.
        n_slots: how many sequences a worker evaluates together, each with ``n_ctx`` tokens.
    """

    family: str
    n_ctx: int
    n_vocab: int
    max_token_bytes: int
    chat_template: str | None = None
    chat_format: str = ""
    chat_format_origin: str = ""
    bos_token: str = ""
    eos_token: str = ""
    fim_tokens: tuple[str, str, str] | None = None
    can_rewind: bool = True
    n_embd: int = 0
    n_ctx_train: int = 0
    quantisation: str = ""
    n_slots: int = 1
