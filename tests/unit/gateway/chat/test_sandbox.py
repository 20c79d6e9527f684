"""Templates that are not to be trusted: what they may not have, and may not do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from gateway.chat.sandbox import MAX_SOURCE, Refused
from tests.unit.gateway.chat.bombs import BOMBS, WHOLE
from tests.unit.gateway.chat.expressions import bounded, template, unbounded

ROOT = Path(__file__).parents[4]

SCALE = 0.05


@pytest.fixture(scope="module")
def ends() -> dict[tuple[str, float], tuple[str, float]]:
    """How each ended, and in how many seconds; those after one that hangs are missing."""
    cases = [(source, SCALE) for sources in BOMBS.values() for source in sources]
    cases += [(source, 1.0) for source in WHOLE]
    command = [sys.executable, "-m", "tests.unit.gateway.chat.bomb_disposal"]
    try:
        done = subprocess.run(
            command, input=json.dumps(cases), capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        output = done.stdout
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode()
    ended = [tuple(json.loads(line)) for line in output.splitlines()]
    return dict(zip(cases, ended, strict=False))


@pytest.mark.parametrize(
    ("end", "number"), [(end, i) for end, sources in BOMBS.items() for i in range(len(sources))]
)
def test_a_bomb_does_not_go_off(
    end: str, number: int, ends: dict[tuple[str, float], tuple[str, float]]
) -> None:
    source = BOMBS[end][number]
    ended, seconds = ends[source, SCALE]
    assert ended in end.split(" or "), source[:200]
    assert seconds < 2, source[:200]


@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_the_work_of_one_rendering_takes_about_a_second(
    number: int, ends: dict[tuple[str, float], tuple[str, float]]
) -> None:
    ended, seconds = ends[WHOLE[number], 1.0]
    assert ended == "OutOfWork"
    assert seconds < 6


@pytest.mark.parametrize(
    "expression",
    [
        "''.__class__.__mro__",
        "().__class__.__base__",
        "messages.append(1)",
        "messages[0].update({'a': 1})",
        "messages[0].pop('role')",
        "namespace.__init__.__globals__",
        "range.__self__.x",
        "(messages | map(attribute='__class__') | list)[0].x",
        "messages[0]['__class__'].x",
        "'a'.upper.__self__.x",
        "self.__init__.x",
        "self._TemplateReference__context.x",
        "loop.__init__.x",
        "raise_exception.__globals__.x",
        "strftime_now.__globals__.x",
        "context.environment",
        "environment.globals",
        "(1).real.x",
        "''.format",
        "''.format_map({})",
        "'{0.__class__}'.format('')",
        "5()",
        "'x'()",
        "messages()",
        "messages[0].items.__call__()",
    ],
)
def test_a_template_gets_at_nothing_that_is_not_its_own(expression: str) -> None:
    with pytest.raises((SecurityError, UndefinedError)):
        bounded(f"{{{{ {expression} }}}}")


def test_macros_and_loops_show_nothing() -> None:
    for expression in ("m._func.x", "m.name.x", "m.__call__()", "m", "m._environment.x"):
        with pytest.raises((SecurityError, UndefinedError)):
            bounded(f"{{% macro m() %}}{{% endmacro %}}{{{{ {expression} }}}}")
    for expression in ("loop", "loop._iterable.x", "loop.__iter__()", "loop._undefined()"):
        with pytest.raises((SecurityError, UndefinedError)):
            bounded(f"{{% for m in messages %}}{{{{ {expression} }}}}{{% endfor %}}")


def test_a_source_has_a_longest() -> None:
    assert bounded("x" * 9000) == "x" * 9000
    template("{#" + "x" * (MAX_SOURCE - 4) + "#}")
    with pytest.raises(ValueError, match="more than 65536"):
        template("{#" + "x" * (MAX_SOURCE - 3) + "#}")


def test_a_refusal_is_the_templates_own_words() -> None:
    with pytest.raises(Refused, match=r"^no such role: user$"):
        bounded("{{ raise_exception('no such role: ' ~ messages[0].role) }}")
    with pytest.raises(Refused) as caught:
        bounded("{{ raise_exception('x' * 1000) }}")
    assert len(str(caught.value)) == 500


def test_what_templates_are_given() -> None:
    assert len(bounded("{{ strftime_now('%Y') }}")) == 4
    assert bounded("{{ dict(a=1).a }}{{ namespace(a=2).a }}{{ range(3)[1] }}") == "121"


def test_what_is_marked_for_training_is_rendered() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %}{% endfor %}"
    assert bounded(source) == "userassistant"


def test_blocks_leave_no_lines() -> None:
    source = "  {% if true %}\n  x\n  {% endif %}\n{#- y -#}\n z\n"
    assert bounded(source) == unbounded(source) == "  x\nz"
