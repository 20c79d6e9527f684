"""Templates that no one should render."""

NEST = "{% set n = namespace(x=['a'], y=['a']) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}"
NEST += "{% set n.y = [n.y, n.y] %}{% endfor %}"
TUPLES = "{% set n = namespace(x=(1,)) %}{% for i in range(99) %}{% set n.x = (n.x, n.x) %}"
TUPLES += "{% endfor %}"
LOOP = "{% for i in range(99999) %}"
DEEP = "{% set n = namespace(x=(1,)) %}{% for i in range(5000) %}{% set n.x = (n.x,) %}{% endfor %}"
# A text that is long to search from the left, and one from the right, for another.
LEFT = "{% set x = 'a' * 2499 %}{% set y = 'a' * 600 ~ 'b' ~ 'a' * 600 %}"
RIGHT = "{% set x = 'a' * 90000 %}{% set y = 'ab' ~ 'a' * 40000 %}"
COSTLY = f"[{','.join(['messages.x'] * 1000)}]"


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
        NEST + "{{ raise_exception(message=n.x) }}",
        NEST + "{{ strftime_now(format=n.x) }}",
        NEST + "{{ n.x | int }}",
        NEST + "{{ 'x' | indent(n.x) }}",
        NEST + "{{ 1 | tojson(indent=n.x) }}",
        NEST + "{{ 'a' | round(n.x) }}",
        NEST + "{{ 'a' | round(*[n.x]) }}",
        NEST + "{{ 'a' | round(**{'precision': n.x}) }}",
        TUPLES + "{{ 1 | round(1, n.x) }}",
        TUPLES + "{{ [1] | map(n.x) }}",
        TUPLES + "{{ [1] | select(n.x) }}",
        TUPLES + "{{ messages | selectattr('role', n.x) }}",
        TUPLES + "{{ messages | sort(attribute=n.x) }}",
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
        often("{{ f() }}", f"{{% macro f(a={COSTLY}) %}}{{% endmacro %}}"),
        "{% macro f() %}{{ caller() }}{% endmacro %}"
        + often(f"{{% call(a={COSTLY}) f() %}}{{% endcall %}}"),
        often("{% set y = x | replace('a', '') %}" * 1000, "{% set x = 'a' * 60000 %}"),
        *(
            often(f"{{% set z = {search} %}}" * 200, LEFT)
            for search in ("x.find(y)", "x.count(y)", "y in x", "x.split(y)", "x | replace(y, '')")
        ),
        *(
            often(f"{{% set z = x.{name}(y) %}}", RIGHT)
            for name in ("rfind", "rindex", "rsplit", "rpartition")
        ),
        often("{% set y = d[x] %}" * 2000, "{% set x = 'x' * 60000 %}{% set d = {'a': 1} %}"),
        "{{ [{'a': range(3000) | list}] | sort(attribute='a" + ",a" * 20_000 + "') }}",
        "{{ ([[]] * 9000) | map('select', 'eq', *range(60000) | list) }}",
        "{{ [2**1000 * 2**1000 * 2**1000 * 2**1000] * 60000 }}",
        "{{ [range(2**1000 * 2**1000 * 2**1000 * 2**1000, 0)] * 20000 }}",
    ],
    "TooLong": [
        often("x" * 60_000),
        doubled("{% set n.x = n.x ~ n.x %}"),
        doubled("{% set n.x = n.x + n.x %}"),
        doubled("{% set n.x = n.x.replace('x', 'xx') %}"),
        doubled("{% set n.x = n.x | replace('', 'xx') %}"),
        doubled("{% set n.x = n.x.join([n.x, n.x]) %}"),
        "{{ 'a\\nb' | indent('y' * 100001) }}",
        "{{ ('a\\n' * 40000) | indent('y' * 40000) }}",
        "{% set n = namespace(x=['a'] * 30000) %}{% for i in range(200) %}{% set n.x = [n.x] %}"
        "{% endfor %}{{ n.x | tojson(indent=100) }}",
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
        NEST + "{{ {n.x: 1} }}",
        NEST + "{{ messages[n.x].y }}",
        DEEP + "{{ {n.x: 1} }}",
        DEEP + "{{ [1] | map(n.x) }}",
        *(
            often(given, "{% set m = 2**61 - 1 %}")
            for given in (
                "{{ range(0, m * 2000, m) | unique }}",
                f"{{% set d = {{{','.join(f'm*{i}:1' for i in range(5000))}}} %}}",
                f"{{% set d = {{{','.join(f'{i * (2**61 - 1)}:1' for i in range(2000))}}} %}}",
                "{% set d = dict([(1, 2), (m, 3)]) %}",
                "{% set d = namespace([(m, 3)]) %}",
            )
        ),
        "{{ [-10**9] | map('_spend') | list }}",
        "{{ [range(9999)] | map('_iterated', -10**9) | list }}",
        "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x }}",
    ],
    "RecursionError": [
        DEEP + "{{ dict([[n.x, 1]]) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for x in messages recursive %}{{ loop([x, x]) }}{% endfor %}",
        "{% set n = namespace(x=1) %}{% for i in range(5000) %}{% set n.x = [n.x] %}{% endfor %}"
        "{{ n.x == [] }}",
    ],
    "TypeError": [
        "{{ '%1000000000d' is odd }}",
        "{{ '%1000000000d' is divisibleby(1) }}",
        TUPLES + "{{ {}.keys() - [n.x] }}",
        TUPLES + "{{ {}.items() - [n.x] }}",
        TUPLES + "{{ {}[n.x:1] }}",
    ],
    "FilterArgumentError": [DEEP + "{{ 1 | round(1, n.x) }}"],
    "OverflowError": ["{{ range(10**9) | list }}"],
    "UndefinedError": ["{{ lipsum(n=10**9) }}", "{{ cycler('a').next() }}"],
    "ValueError": [
        "{{ 'x' | center(1000000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ [1] | batch(1000000000, 'x') | list }}",
        "{{ 'x' | wordwrap(1) }}",
        "{{ -10**9 | _spend }}",
        "{% set x | _spend %}{% endset %}",
        "{% filter _iterated(-1) %}{% endfilter %}",
        "{% for i in [1] if true recursive %}{{ loop(range(99999)) }}{% endfor %}",
        "{{ range(9999)" + " | map('string')" * 3000 + " | list }}",
        "{{ " + "(" * 3000 + " }}",
        "{{ " + "not " * 10_000 + "1 }}",
        "{{ 1" + "+1" * 30_000 + " }}",
        "{{ a" + ".b" * 30_000 + " }}",
        "{% if a %}" * 3000,
        "{% for a in b %}" * 50 + "{% endfor %}" * 50,
        "{{ " + "[" * 2000 + "]" * 2000 + " }}",
        "{{ 1 " + "if 1 else 1 " * 4000 + " }}",
        "{#" * 30_000,
    ],
    # Newer versions of Python take it.
    "ValueError or rendered": ["{% if a %}" + "{% elif b %}" * 4000 + "{% endif %}"],
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
