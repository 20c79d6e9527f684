"""What a worker is told when it is started."""

from dataclasses import dataclass

# Environment variable through which the gateway hands the zygote a JSON object: ``config``, a
# `WorkerConfig`, and ``preload``, the modules that it imports before it loads the model.
ZYGOTE_VARIABLE = "GGML_FASTAPI_ZYGOTE"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """One value that travels from the gateway's settings to the zygote and the workers.

    Attributes:
        engine: ``ctransformers`` or ``echo``.
        model_path: the model file; empty for ``echo``.
        model_type: what the file is expected to be; None takes what it says.
        tokenizer_path: a ``tokenizer.json`` that replaces the tokenizer built from the model file;
            empty for none.
        tokenizer_is_optional: nobody asked for that one, so if it does not fit the model it is
            left aside.
        n_ctx: context length in tokens; None takes what the model was trained for.
        threads: the most threads that one evaluation may use.
        log_level: name of a `logging` level.
        log_format: ``console`` or ``json``; see `shared.logging`.
        library: file of the engine's library; empty takes the package's own for this CPU.
        model_id: the model's name, as clients say and see it.
        file_name: what the model file is called where it came from.
        chat_template: the setting ``CHAT_TEMPLATE``: a name of a format, or a path; None leaves the
            format to the model.
        echo_delay_ms: how long the echo engine takes for each evaluation.
        slots: how many sequences the echo engine evaluates together.
        name: of the process, for its log.
    """

    engine: str
    model_path: str = ""
    model_type: str | None = None
    tokenizer_path: str = ""
    tokenizer_is_optional: bool = False
    n_ctx: int | None = None
    threads: int = 1
    log_level: str = "INFO"
    log_format: str = "console"
    library: str = ""
    model_id: str = ""
    file_name: str = ""
    chat_template: str | None = None
    echo_delay_ms: float = 0.0
    slots: int = 1
    name: str = ""
