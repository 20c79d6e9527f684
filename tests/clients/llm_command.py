"""Simon Willison's `llm`: the command, with a model of our own in its configuration."""

import json
import os
from pathlib import Path
from typing import Any

import llm
from click.testing import CliRunner
from llm.cli import cli
from llm.default_plugins.openai_models import OpenAIEmbeddingModel

from tests.clients.subjects import (
    ANSWER,
    ASK_WEATHER,
    BEGINNING,
    CONTINUATION,
    MODEL,
    QUESTION,
    URL,
    WEATHER_SCHEMA,
    is_weather,
)

FOLDER = Path(os.environ["LLM_USER_PATH"])
FUNCTION = '''
def get_weather(city: str) -> str:
    """Get the weather in a city."""
    return "21 degrees"

def bare():
    return "ok"
'''

common = {"model_name": MODEL, "api_base": URL}
# JSON is YAML.
(FOLDER / "extra-openai-models.yaml").write_text(
    json.dumps(
        [
            {"model_id": "ours", "supports_schema": True, "supports_tools": True, **common},
            {"model_id": "ours-text", "completion": True, **common},
        ]
    )
)


def run(*words: str) -> str:
    """What the command prints, run in this process."""
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def ask(*words: str, model: str = "ours", max_tokens: int = 24) -> str:
    return run("-m", model, "-o", "temperature", "0", "-o", "max_tokens", f"{max_tokens}", *words)


def check_prompt() -> None:
    streamed = ask(QUESTION)
    assert streamed == f"{ANSWER}\n"
    assert ask(QUESTION, "--no-stream") == streamed
    assert ask(QUESTION, "--system", "You are a pirate.").strip()
    (logged, *_) = json.loads(run("logs", "--json", "-n", "1"))
    assert logged["input_tokens"] > 0 and logged["output_tokens"] > 0


def check_completion() -> None:
    assert ask(BEGINNING, model="ours-text", max_tokens=8) == f"{CONTINUATION}\n"


def check_schema() -> None:
    schema = json.dumps(WEATHER_SCHEMA)
    assert is_weather(ask(ASK_WEATHER, "--schema", schema, max_tokens=120))
    assert is_weather(ask(ASK_WEATHER, "--schema", schema, "--no-stream", max_tokens=120))


def check_tools() -> None:
    """It never demands a call, so this model may as well answer."""
    for more in ((), ("--no-stream",)):
        ask(ASK_WEATHER, "--functions", FUNCTION, "--chain-limit", "3", *more)


def check_the_models_of_an_address() -> None:
    assert MODEL in run("openai", "endpoint", URL, "--models")
    assert run("openai", "endpoint", URL, "-m", MODEL, "-o", "max_tokens", "8", QUESTION).strip()


def check_embeddings() -> None:
    model: Any = OpenAIEmbeddingModel("ours", MODEL)
    model.key = "none"
    one, two = model.embed_multi(["Paris", "London"])
    assert len(one) == len(two) > 100
    assert isinstance(model, llm.EmbeddingModel)
