"""``ggml-fastapi build-engine``: the engine's library, compiled for the CPU of this machine."""
