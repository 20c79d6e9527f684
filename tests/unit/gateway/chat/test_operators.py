"""What the syntax of a template was turned into."""

import pytest
from jinja2.exceptions import SecurityError

from gateway.chat.meter import OutOfWork, TooLong
from tests.unit.gateway.chat.expressions import SPECIAL, bounded, template, unbounded


@pytest.mark.parametrize(
    "expression",
    [
        "1 < 2 <= 2 == 2 != 3 > 2 >= 1",
        "1 < 3 < 2",
        "'a' in 'abc' and 'x' not in ['a'] and 'role' in messages[0]",
        "messages[0].role == 'user' and messages[0] == messages[0] and messages != []",
        "messages[1].role in {'assistant': 1} and 1 not in []",
        "nothing == 'x' or nothing == none",
        "'a' ~ 1 ~ none ~ nothing ~ [1, 'b'] ~ 2.5",
        "messages[0].content[1:3] ~ messages[::-1][0].role ~ (1, 2, 3)[:2] ~ 'abc'[-2:]",
        "{messages[0].role: 1, 'x' ~ 1: 2, 3: 4}",
        "range(4) | list",
        "nothing",
        "[nothing]",
        "messages[0].keys() | list",
        "messages",
    ],
)
def test_an_operator_does_what_it_does(expression: str) -> None:
    source = f"{{{{ {expression} }}}}"
    assert bounded(source) == unbounded(source)


def test_text_of_a_template_equals_text_of_a_client() -> None:
    source = (
        "{{ x == '<s>' }}{{ x != '<s>' }}{{ '<s>' in x }}{{ x in ['<s>'] }}"
        "{{ {'<s>': 'found'}[x] }}{{ {x: 'found'}['<s>'] }}{{ x is eq('<s>') }}"
        "{{ [x, '<s>'] | unique(case_sensitive=true) | list | length }}{{ ['<s>'].index(x) }}"
    )
    made = template(source).render({"x": "<s>"}, 1000)
    assert SPECIAL.plain(made).startswith("TrueFalseTrueTruefoundfoundTrue")
    assert made.endswith("0")


def test_a_loop_counts_what_it_passes_over() -> None:
    source = (
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}"
    )
    with pytest.raises(OutOfWork):
        bounded(source)
    assert bounded("{% for i in nothing %}{% else %}none{% endfor %}") == "none"
    with pytest.raises(TypeError):
        bounded("{% for i in 5 %}{% endfor %}")


def test_what_is_written_has_an_end() -> None:
    assert bounded("{{ 'x' * 10000 }}") == "x" * 10_000
    with pytest.raises(TooLong):
        bounded("{{ 'x' * 10001 }}")
    with pytest.raises(TooLong):
        bounded("{% set x = ('x' * 5000) ~ ('y' * 5001) %}")
    # Into a text that is kept, more may be written, but not for ever.
    kept = "{% set y %}{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}{% endset %}"
    with pytest.raises(OutOfWork):
        bounded(kept)


@pytest.mark.parametrize(
    "expression",
    [
        "{(1, 2): 3}",
        "{}[(1, 2)]",
        "{2**61: 1}",
        "{}[[]]",
        "{}[{}]",
        "namespace()",
        "self",
        "messages[0].items",
        "range",
    ],
)
def test_what_is_no_data_is_refused(expression: str) -> None:
    with pytest.raises(SecurityError):
        bounded(f"{{{{ {expression} }}}}")
