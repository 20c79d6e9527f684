"""The rewritten syntax tree."""

import pytest
from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError

from gateway.chat import guards
from gateway.chat.meter import OutOfWork
from gateway.chat.special import SpecialTokens
from tests.unit.gateway.chat.expressions import bounded, template, unbounded


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("{% include 'x' %}", "Include"),
        ("{% import 'x' as y %}", "Import"),
        ("{% from 'x' import y %}", "FromImport"),
        ("{% extends 'x' %}", "Extends"),
        ("{% block x %}{% endblock %}", "Block"),
        ("\n{% if x %}{% include 'x' %}{% endif %}", "Include"),
    ],
)
def test_what_is_not_known_is_refused(source: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"line {1 + source.count(chr(10))}: '{kind}' is not"):
        template(source)


@pytest.mark.parametrize(
    "arguments", ["(x)", "(x=y)", "(*x)", "(**x)", "(1, x, y=z)", "(x.y)", "([x])"]
)
def test_all_that_a_filter_or_a_test_is_given_is_gone_through(arguments: str) -> None:
    for use in (f"a | trim{arguments}", f"a is divisibleby{arguments}"):
        tree = guards.Guard(SpecialTokens(())).visit(Environment().parse(f"{{{{ {use} }}}}"))
        (node,) = (n for n in tree.find_all((nodes.Filter, nodes.Test)) if n.name[0] != "_")
        given = [*node.args, *(keyword.value for keyword in node.kwargs)]
        given += [spread for spread in (node.dyn_args, node.dyn_kwargs) if spread]
        assert {arg.name for arg in given if not isinstance(arg, nodes.Const)} == {"_given"}


@pytest.mark.parametrize("name", guards.OPERATORS)
def test_operators_have_no_name_in_a_source(name: str) -> None:
    for source in (f"{{{{ 1 | {name}(1) }}}}", f"{{% filter {name} %}}{{% endfilter %}}"):
        with pytest.raises(ValueError, match=f"line 1: there is no filter '{name}'"):
            template(source)
    for source in (f"{{{{ [1] | map('{name}', 1) | list }}}}",
                   f"{{% set n = '{name}' %}}{{{{ [1] | map(n) }}}}"):  # fmt: skip
        with pytest.raises(SecurityError, match=f"there is no filter '{name}'"):
            bounded(source)


def test_every_kind_of_node_that_is_known_exists_once() -> None:
    assert len(set(guards._KNOWN)) == len(guards._KNOWN)
    assert all(issubclass(kind, nodes.Node) for kind in guards._KNOWN)


def test_nothing_is_left_that_is_not_counted() -> None:
    source = "{% for x in y %}{{ a ~ b }}{{ a == b }}{{ a[1:] }}text{{ {a: b} }}{% endfor %}"
    source += "{{ a is divisibleby(b) }}"
    tree = guards.Guard(SpecialTokens(())).visit(Environment().parse(source))
    assert not list(tree.find_all((nodes.Concat, nodes.Compare, nodes.Slice, nodes.TemplateData)))
    used = {node.name for node in tree.find_all(nodes.Filter)}
    assert used == set(guards.OPERATORS)


@pytest.mark.parametrize(
    "source",
    [
        "{% macro f(a, b='<s>', c=none) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}"
        "{% endmacro %}{{ f(*[1, 2]) }}{{ f(*(1, 2, 3, 4), **{'x': 'y'}) }}{{ f(b=5, a='x') }}",
        "{{ dict(messages[0], **{'content': 'x'}) }}{{ [1, 2] | join(*['-']) }}",
        "{% macro f() %}<{{ caller('x') }}>{% endmacro %}{% call(y) f() %}{{ y }}{% endcall %}",
        "{% set a, b = 1, 2 %}{% set c %}x{{ a }}{% endset %}{{ a }}{{ b }}{{ c }}",
        "{% set n = namespace(a=1) %}{% for i in [1, 2] %}{% set n.a = n.a + i %}{% endfor %}"
        "{{ n.a }}{{ n['missing'] }}",
        "{% with a = 1 %}{{ a }}{% endwith %}{% filter upper %}x{% endfilter %}",
        "{% if nothing %}{% elif 1 %}b{% else %}c{% endif %}{{ 'x' if false }}{{ not 1 or 2 }}",
        "{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{{ loop.last }}{% endfor %}{{ -1 }}{{ +1 }}",
    ],
)
def test_a_rewritten_tree_does_what_it_did(source: str) -> None:
    assert bounded(source) == unbounded(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% set a %}{% for i in range(9999) %}" + "x" * 50_000 + "{% endfor %}{% endset %}",
        "{% for i in range(99999) %}" + "{% set x = messages[0].role %}" * 2000 + "{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
        "{{ f(60) }}",
        "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        "{% for i in range(99999) %}{% call f() %}"
        + "{{ i }}" * 1000
        + "{% endcall %}{% endfor %}",
        "{% macro f() %}{{ varargs | length }}{% endmacro %}"
        "{% for i in range(99999) %}{{ f(*range(99999)) }}{% endfor %}",
    ],
)
def test_the_work_of_a_body_is_counted_each_time(source: str) -> None:
    with pytest.raises(OutOfWork):
        bounded(f"{{% set all %}}{source}{{% endset %}}")
