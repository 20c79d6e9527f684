"""Templates that no one should render."""

_NEST = (
    "{% set n = namespace(x=['a'], y=['a']) %}"
    "{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% set n.y = [n.y, n.y] %}{% endfor %}"
)
_LOOP = "{% for i in range(99999) %}"
_DEEP = (
    "{% set n = namespace(x=(1,)) %}{% for i in range(5000) %}{% set n.x = (n.x,) %}{% endfor %}"
)


def _doubled(step: str) -> str:
    return f"{{% set n = namespace(x='xx') %}}{_LOOP}{step}{{% endfor %}}"


def _often(body: str, first: str = "") -> str:
    return f"{first}{_LOOP}{body}{{% endfor %}}"


_LOOPS = (
    _often(_LOOP + "{% endfor %}"),
    "{% for c in 'x' * 60000 %}{% for d in 'x' * 60000 %}{% endfor %}{% endfor %}",
    "{% macro f(n) %}x{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ varargs | length }}{% endmacro %}" + _often("{{ f(*range(99999)) }}"),
    "{% for x in messages recursive %}{{ loop([x, x]) }}{% endfor %}",
)
_SIZES = (
    "{{ 'x' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ 10**(10**10) }}",
    "{{ range(10**9) | list }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ 'x'.ljust(10**9) }}{{ 'x' | center(1000000000) }}",
    "{{ 'x' | indent(10**9, true) }}",
    "{{ ('a\\n' * 40000) | indent('y' * 40000) }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ [1] | batch(1000000000, 'x') | list }}",
    "{{ 5.5 | round(1000000000, 'ceil') }}",
    "{{ strftime_now('%1000000000Y') }}{{ strftime_now('%c' * 50000) }}",
    _often("x" * 60_000),
    _doubled("{% set n.x = n.x ~ n.x %}"),
    _doubled("{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
    _doubled("{% set n.x = [n.x] if i == 0 else n.x + n.x %}"),
    _doubled("{% set n.x = n.x.replace('x', 'xx') %}"),
    _doubled("{% set n.x = n.x.join([n.x, n.x]) %}"),
    _doubled("{% set n.x = 3 if n.x == 'xx' else n.x * n.x %}"),
    _often("{% set n.l = n.l + [('x' * 60000) ~ i] %}", "{% set n = namespace(l=[]) %}"),
)
# Small values that a walk through all of their parts makes large, or deep.
_WALKS = (
    *(
        _NEST + f"{{{{ {walk} }}}}"
        for walk in (
            "n.x", "n.x == n.y", "n.x | tojson", "[n.x, n.y] | sort", "{n.x: 1}",
            "raise_exception(n.x)",
        )
    ),
    _DEEP + "{{ {n.x: 1} }}",
    _DEEP + "{{ n.x == [] }}{{ n.x | tojson }}",
    "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x }}",
)  # fmt: skip
# Single steps, each of which takes long.
_STEPS = (
    _often("{% set y = x[1:] %}" * 2000, "{% set x = 'x' * 60000 %}"),
    _often("{% set l = range(99999) | select('odd') | list %}"),
    _often("{{ i in l }}", "{% set l = range(9999) | list %}"),
    _often("{{ x | sort(attribute='content') }}", "{% set x = messages * 10000 %}"),
    _often("{% set y = x | replace('a', '') %}" * 1000, "{% set x = 'a' * 60000 %}"),
    _often(
        "{% set z = x.find(y) %}{% set z = x.count(y) %}" * 200,
        "{% set x = 'a' * 2499 %}{% set y = 'a' * 600 ~ 'b' ~ 'a' * 600 %}",
    ),
    "{{ ([[]] * 9000) | map('select', 'eq', *range(60000) | list) }}",
)
# Long or deep to compile.
_SOURCES = (
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
)
BOMBS = (*_LOOPS, *_SIZES, *_WALKS, *_STEPS, *_SOURCES)
