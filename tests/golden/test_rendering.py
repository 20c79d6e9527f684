"""Chat templates are rendered as by Jinja's sandbox, set up as ``transformers`` does it."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import pytest
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from shared.model.inspect import inspect
from tests.golden.chat_templates import CONVERSATIONS, TEMPLATES
from worker.prompt.formats import FORMATS
from worker.prompt.render import ChatTemplate

NAMED = {f"our {name}": known.as_format("").source for name, known in FORMATS.items()}


class Generation(Extension):
    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def reference(source: str, variables: dict[str, Any]) -> str | None:
    """What Jinja makes of a template; None if it refuses."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", Generation],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    try:
        return environment.from_string(source).render(variables)
    except (jinja2.TemplateError, TypeError, KeyError):
        return None


def ours(source: str, variables: dict[str, Any]) -> str | None:
    try:
        return ChatTemplate(source).render(variables)
    except Exception:
        return None


def check(source: str) -> int:
    """Compare all conversations; returns how many were rendered."""
    n_rendered = 0
    for name, (messages, tools) in CONVERSATIONS.items():
        for asks in (True, False):
            variables = {
                "messages": messages,
                "tools": tools or None,
                "documents": None,
                "add_generation_prompt": asks,
                "bos_token": "<s>",
                "eos_token": "</s>",
            }
            expected = reference(source, variables)
            assert ours(source, variables) == expected, name
            n_rendered += expected is not None
    return n_rendered


@pytest.mark.parametrize("name", [*TEMPLATES, *NAMED])
def test_as_jinja_does(name: str) -> None:
    assert check({**TEMPLATES, **NAMED}[name]) >= 4


def test_the_demo_models_own_template(demo_model: Path) -> None:
    source = inspect(demo_model).chat_template
    assert source is not None and check(source) > 20


def test_it_is_compared_with_something() -> None:
    variables = {"messages": CONVERSATIONS["a question"][0]}
    assert reference("{{ messages[0].content }}", variables) == "Hi there, what is the weather <b>?"
    assert reference("{{ raise_exception('x') }}", variables) is None
