"""The filters: Jinja's, within bounds."""

import re

import pytest
from jinja2.exceptions import SecurityError

from gateway.chat.filters import FILTERS
from gateway.chat.meter import OutOfWork, TooLong
from tests.unit.gateway.chat.expressions import SPECIAL, bounded, template, unbounded

EXPRESSIONS = [
    "-3 | abs",
    "'aB c' | capitalize",
    "messages | count",
    "nothing | d('x')",
    "messages[0].content | default('x')",
    "'' | default('<s>', true)",
    "{'b': 1, 'A': 2} | dictsort",
    "{'b': 1, 'a': 2} | dictsort(by='value', reverse=true) | list",
    "messages | first",
    "'abc' | first",
    "'2.5' | float",
    "'x' | float(1.5)",
    "messages[1].content | indent",
    "messages[1].content | indent(2, first=true, blank=true)",
    "'a\\nb' | indent('> ')",
    "'12' | int",
    "'x' | int(7)",
    "'ff' | int(base=16)",
    "2.9 | int",
    "{'a': 1} | items | list",
    "nothing | items | list",
    "['a', 1, none] | join('<s>')",
    "messages | join(', ', attribute='role')",
    "nothing | join",
    "messages | last",
    "messages | length",
    "nothing | length",
    "'abc' | list",
    "{'a': 1} | list",
    "range(3) | list",
    "'aBÉ' | lower",
    "messages | map(attribute='role') | list",
    "messages | map(attribute='nothing', default='x') | list",
    "['a ', ' b'] | map('trim') | map('upper') | join",
    "messages | map(attribute='content') | map('replace', 'a', '<s>') | list",
    "[3, 1, 2] | max",
    "messages | min(attribute='role')",
    "[] | max",
    "[1, 2, 3] | reject('odd') | list",
    "['', 'a'] | reject | list",
    "messages | rejectattr('role', 'equalto', 'user') | list",
    "messages[0].content | replace('i', '<s>')",
    "'aaa' | replace('a', 'b', 2)",
    "5 | replace(5, 6)",
    "[1, 2] | reverse | list",
    "'abc' | reverse",
    "2.567 | round(2)",
    "2.1 | round(method='ceil') | int",
    "messages[0].content | safe",
    "[1, 2, 3] | select('odd') | list",
    "messages | selectattr('role', 'in', ['user', 'tool']) | map(attribute='content') | list",
    "messages | selectattr('nothing', 'defined') | list",
    "['b', 'C', 'a'] | sort",
    "messages | sort(attribute='role', reverse=true) | map(attribute='role') | list",
    "5 | string ~ '1'",
    "[1, 2] | sum",
    "[{'a': 1}, {'a': 2}] | sum(attribute='a', start=3)",
    "'ab cD-e' | title",
    "messages | tojson",
    "{'<b>': ['é', 1.5, none, true, '\\\"']} | tojson",
    "messages | tojson(indent=2)",
    "messages[0].content | trim",
    "'xxaxx' | trim('x')",
    "['a', 'b', 'a', 'A'] | unique | list",
    "['a', 'A'] | unique(case_sensitive=true) | list",
    "'aßÉ' | upper",
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_filter_does_what_jinjas_does(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    assert bounded(source) == unbounded(source)


def test_every_filter_is_tested() -> None:
    used = set(re.findall(r"\| (\w+)", " ".join(EXPRESSIONS)))
    assert used == set(FILTERS)


def test_tojson_takes_what_transformers_takes() -> None:
    source = "{{ {'b': 'é', 'a': 1} | tojson(ensure_ascii=true, sort_keys=true) }}"
    assert bounded(source) == '{"a": 1, "b": "\\u00e9"}'
    assert bounded("{{ [1, {'a': 2}] | tojson(separators=[',', ':']) }}") == '[1,{"a":2}]'


@pytest.mark.parametrize(
    "expression",
    [
        "'x' | indent(101)",
        "[1] | tojson(indent=101)",
        "5 | round(31)",
        "5 | round(-31)",
        "'x' | round",
        "['a'] | sum",
        "[[1]] | sum(start=[])",
        "namespace() | string",
        "[namespace()] | tojson",
    ],
)
def test_what_has_no_bound_is_refused(expression: str) -> None:
    with pytest.raises(SecurityError):
        bounded(f"{{{{ {expression} }}}}")


@pytest.mark.parametrize("name", ["sort", "unique", "min", "select", "map('string')", "join"])
def test_items_are_counted(name: str) -> None:
    source = "{% for i in range(9999) %}{% set x = range(9999) | NAME %}{% endfor %}"
    with pytest.raises(OutOfWork):
        bounded(source.replace("NAME", name), longest=100_000)


def test_names_may_stand_in_variables() -> None:
    source = (
        "{% set t, f, a = 'equalto', 'upper', 'role' %}"
        "{{ messages | selectattr(a, t, 'user') | list }}"
        "{{ messages | rejectattr(a, t, 'user') | list }}"
        "{{ messages | map(attribute=a) | map(f) | list }}"
        "{{ messages | map(attribute=a) | select(t, 'user') | list }}"
        "{{ messages | map(attribute=a) | reject(t, 'user') | list }}"
    )
    assert bounded(source) == unbounded(source)


def test_what_is_put_in_by_name_stays_marked() -> None:
    source = "{% set s = '<s>' %}{{ ['x'] | map('replace', 'x', s) | join }}"
    assert SPECIAL.split_marked(template(source).render({}, 100)) == ("", "<s>", "")


def test_what_is_too_large_for_memory_is_counted_before_it_is_made() -> None:
    for value in ("('a\\n' * 400) | indent('y' * 400)", "(['a'] * 2000) | tojson(indent=100)"):
        with pytest.raises(TooLong):
            bounded(f"{{{{ {value} }}}}")


def test_a_number_of_any_length_is_no_number() -> None:
    assert bounded("{{ '9' * 1001 | int(5) }}") == unbounded("{{ '9' * 1001 | int(5) }}")
    assert bounded("{{ ('9' * 1001) | int(5) }}") == "5"
