"""Templates that are not to be trusted: what they may not have, and may not do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from gateway.chat.sandbox import MAX_SOURCE, Refused
from tests.unit.gateway.chat.expressions import bounded, template, unbounded

ROOT = Path(__file__).parents[4]

NEST = "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}"
NEST += "{% set n.y = [n.y, n.y] %}{% endfor %}"
TUPLES = "{% set n = namespace(x=(1,)) %}{% for i in range(99) %}{% set n.x = (n.x, n.x) %}"
TUPLES += "{% endfor %}"
LOOP = "{% for i in range(99999) %}"


def doubled(step: str) -> str:
    return f"{{% set n = namespace(x='xx') %}}{LOOP}{step}{{% endfor %}}"


def often(body: str, given: str = "") -> str:
    return f"{given}{LOOP}{body}{{% endfor %}}"


# how it ends: templates
BOMBS: dict[str, list[str]] = {
    "OutOfWork": [
        often(LOOP + "{% endfor %}"),
        often("{% for j in range(99999) if j is string %}{% endfor %}"),
        "{% macro f(n) %}x{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{{ 'x' * 10**9 }}",
        "{{ [1] * 10**9 }}",
        "{{ 10**(10**10) }}",
        doubled("{% set n.x = 3 if n.x == 'xx' else n.x * n.x %}"),
        doubled("{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
        doubled("{% set n.x = [n.x] if i == 0 else n.x + n.x %}"),
        NEST + "{{ n.x }}",
        NEST + "{{ n.x == n.y }}",
        NEST + "{{ n.x < n.y }}",
        NEST + "{{ n.x in [n.y] }}",
        NEST + "{{ n.x is eq(n.y) }}",
        NEST + "{{ n.x is lower }}",
        NEST + "{{ n.x | tojson }}",
        NEST + "{{ n.x | string }}",
        NEST + "{{ n.x | join }}",
        NEST + "{{ n.x ~ 'x' }}",
        NEST + "{{ n.x.index(n.y) }}",
        NEST + "{{ [n.x, n.y] | sort }}",
        NEST + "{{ [n.x, n.y] | max }}",
        NEST + "{{ [n.x] | map('string') | list }}",
        NEST + "{{ raise_exception(n.x) }}",
        NEST + "{% for i in [1, 2] %}{{ loop.changed(n.x) }}{% endfor %}",
        TUPLES + "{{ {}.get(n.x) }}",
        TUPLES + "{{ [n.x] | unique | list }}",
        TUPLES + "{{ dict([(n.x, 1)]) }}",
        often("{% set y = x[1:] %}" * 2000, "{% set x = 'x' * 60000 %}"),
        often("{% set y = x.upper() %}" * 2000, "{% set x = 'x' * 60000 %}"),
        often("{% set y = x.a %}" * 3000, "{% set x = {'a': 1} %}"),
        often("{% set l = range(99999) | list %}"),
        often("{% set l = range(99999) | select('odd') %}"),
        often("{% set l = x.split() %}", "{% set x = 'ab ' * 30000 %}"),
        often("{{ i in l }}", "{% set l = range(9999) | list %}"),
        often(
            "{% if x | int or x | float or x is upper %}{% endif %}", "{% set x = 'a' * 90000 %}"
        ),
        often("{% if (x | int) | string %}{% endif %}", "{% set x = '7' * 900 %}"),
        often("{{ x | sort(attribute='content') }}", "{% set x = messages * 10000 %}"),
        often("{% set n.l = n.l + [('x' * 60000) ~ i] %}", "{% set n = namespace(l=[]) %}"),
        often("{% set n.l = [i] + n.l %}", "{% set n = namespace(l=[]) %}"),
        "{% set x = messages * 9999 %}{{ x | map(attribute='a" + ".a" * 30_000 + "', default=x) }}",
        "{% for c in 'x' * 60000 %}{% for d in 'x' * 60000 %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ varargs | length }}{% endmacro %}" + often("{{ f(*range(99999)) }}"),
    ],
    "TooLong": [
        often("x" * 60_000),
        doubled("{% set n.x = n.x ~ n.x %}"),
        doubled("{% set n.x = n.x + n.x %}"),
        doubled("{% set n.x = n.x.replace('x', 'xx') %}"),
        doubled("{% set n.x = n.x | replace('', 'xx') %}"),
        doubled("{% set n.x = n.x.join([n.x, n.x]) %}"),
        "{{ 'a\\nb' | indent('y' * 100001) }}",
    ],
    "SecurityError": [
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'.center(10**9) }}",
        "{{ '\\t'.expandtabs(10**9) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ (1).to_bytes(1000000000, 'big') }}",
        "{{ 'a'.translate({97: 'x' * 10000}) }}",
        "{{ 'x' | indent(10**9, true) }}",
        "{{ [1] | tojson(indent=10**9) }}",
        "{{ 5 | round(-1000000000) }}",
        "{{ 5.5 | round(1000000000, 'ceil') }}",
        "{{ [[1]] | sum(start=[]) }}",
        TUPLES + "{{ {n.x: 1} }}",
        TUPLES + "{{ {}[n.x] }}",
        "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x }}",
    ],
    "RecursionError": [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in messages recursive %}{{ loop([x, x]) }}{% endfor %}",
        "{% set n = namespace(x=1) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor %}"
        "{{ n.x == [] }}",
    ],
    "TypeError": ["{{ '%1000000000d' is odd }}", "{{ '%1000000000d' is divisibleby(1) }}"],
    "OverflowError": ["{{ range(10**9) | list }}"],
    "UndefinedError": ["{{ lipsum(n=10**9) }}", "{{ cycler('a').next() }}"],
    "ValueError": [
        "{{ 'x' | center(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ 'x' | wordwrap(1) }}",
        "{{ range(9999)" + " | map('string')" * 3000 + " | list }}",
        "{{ " + "(" * 3000 + " }}",
        "{{ " + "not " * 10_000 + "1 }}",
        "{{ 1" + "+1" * 30_000 + " }}",
        "{{ a" + ".b" * 30_000 + " }}",
        "{% if a %}" * 3000,
        "{% if a %}" + "{% elif b %}" * 4000 + "{% endif %}",
        "{% for a in b %}" * 50 + "{% endfor %}" * 50,
        "{{ " + "[" * 2000 + "]" * 2000 + " }}",
        "{{ 1 " + "if 1 else 1 " * 4000 + " }}",
        "{#" * 30_000,
    ],
    "rendered": [
        "{{ 1" + "~1" * 9_000 + " }}",
        "{% set a = 1 %}" * 4000,
        "{{ strftime_now('%1000000000Y') }}{{ strftime_now('%c' * 50000) }}",
    ],
}
# These get the whole allowance: about a second, also on a busy machine not many.
WHOLE = [
    often(LOOP + "{% endfor %}"),
    NEST + "{{ n.x == n.y }}",
    often("{% set y = x.upper() %}" * 2000, "{% set x = 'x' * 60000 %}"),
    often("{% set y = x.a %}" * 3000, "{% set x = {'a': 1} %}"),
]
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
    assert ended == end, source[:200]
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
