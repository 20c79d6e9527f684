"""What a process of the server is told when it is started."""

import os
from dataclasses import dataclass
from pathlib import Path

# Environment variable through which the gateway hands the zygote a JSON object: ``config``, a
# `WorkerConfig`, ``preload``, the modules that it imports before it loads the model, and
# ``prefix_cache``, the descriptor of the prefix cache, if there is one.
ZYGOTE_VARIABLE = "GGML_FASTAPI_ZYGOTE"
_CHECKOUT = str(Path(__file__).parents[1])


def python_path(inherited: str | None) -> str:
    """PYTHONPATH of a new interpreter, which has no `sys.path` of ours: a checkout may do."""
    return os.pathsep.join(filter(None, (_CHECKOUT, inherited)))


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One value that travels from the gateway's settings to the zygote and the workers."""

    engine: str  #: ``ctransformers``, ``llamacpp`` or ``echo``
    model_path: str = ""  #: empty for ``echo``
    model_type: str | None = None  #: what the file is expected to be; None takes what it says
    tokenizer_path: str = ""  #: a ``tokenizer.json`` in place of the tokenizer of the model file
    #: nobody asked for that one, so if it does not fit the model it is left aside
    tokenizer_is_optional: bool = False
    n_ctx: int | None = None  #: in tokens; None takes what the model was trained for
    threads: int = 1  #: the most that one evaluation may use
    log_level: str = "INFO"
    log_format: str = "console"  #: or ``json``; see `shared.logging`
    library: str = ""  #: file of the engine's library; empty takes the package's own
    model_id: str = ""  #: the model's name, as clients say and see it
    file_name: str = ""  #: what the model file is called where it came from
    #: the setting ``CHAT_TEMPLATE``: a format's name, or a path; None leaves it to the model
    chat_template: str | None = None
    echo_delay_ms: float = 0.0  #: what each evaluation of the echo engine takes
    slots: int = 1  #: how many sequences are evaluated together; ctransformers has one
    #: of llama.cpp: each slot has cells of its own, and so many rows at most are evaluated at once,
    #: so that logits do not depend on what else runs; 0 shares the cells
    exact_rows: int = 0
    cache_type: str = "f16"  #: of llama.cpp's KV cache: ``f16`` or ``q8_0``
    #: of llama.cpp: paths of LoRA adapters, and how strong each is
    adapters: tuple[tuple[str, float], ...] = ()
    prefix_cache: int = 0  #: bytes for states of KV caches, which all workers share; 0 for none
    name: str = ""  #: of the process, for its log
