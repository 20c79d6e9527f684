"""What a worker tells of the model that it has loaded."""

from dataclasses import dataclass

PLAIN_ORIGIN = "nothing better is known of this model"
"""Where a chat format comes from when there was nothing to choose it by."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the gateway needs to know of a loaded model."""

    family: str  #: the architecture, e.g. ``llama``
    n_ctx: int  #: context length in tokens, prompt and completion together
    n_vocab: int
    #: length of the longest token's text; a prompt of more than ``n_ctx`` times that cannot fit
    max_token_bytes: int
    #: The Jinja template that chats get; the model's own, if its file carries one, until the
    #: process that loads the model has chosen.
    chat_template: str | None = None
    tool_template: str | None = None  #: that of chats with tools, where it is another
    chat_format: str = ""  #: its name
    chat_format_origin: str = ""  #: where it comes from, for people
    bos_token: str = ""  #: text of the token that begins a sequence, for the template
    eos_token: str = ""  #: text of the one that ends it
    #: texts of the tokens before prefix, suffix and middle of a text to be filled in
    fim_tokens: tuple[str, str, str] | None = None
    #: the most tokens of a KV cache that can be cut back to a part of them, while a longer one can
    #: only be continued, or emptied; None if any can be cut
    most_rewound: int | None = None
    n_embd: int = 0  #: numbers in an embedding; 0 if the engine gives none for this family
    n_ctx_train: int = 0  #: that the model was made for; 0 if unknown
    quantisation: str = ""  #: of the weights, e.g. ``Q4_0``
    generates: bool = True  #: False of a model that gives embeddings alone
    n_slots: int = 1  #: sequences that a worker evaluates together
