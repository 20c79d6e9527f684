"""Compiles and renders templates that come from model files, which nobody here has read.

A template is a program. It is kept from objects that are not its own, as by Jinja's sandbox, and
from work without end, which that does not do: every loop, call, operation and text is counted
against an allowance. The event loop waits for a rendering, so that has to end in any case.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from types import BuiltinMethodType, MethodType
from typing import Any, NoReturn

from jinja2 import Template, Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import SandboxedEnvironment, safe_range
from jinja2.utils import Namespace

from gateway.chat.arithmetic import BOUNDS
from gateway.chat.context import BoundedContext
from gateway.chat.filters import FILTERS
from gateway.chat.guards import OPERATORS, Guard
from gateway.chat.meter import CALL, Meter, TooLong
from gateway.chat.operators import check_key, printed
from gateway.chat.predicates import TESTS
from gateway.chat.special import SpecialTokens
from gateway.chat.text_methods import TEXT_METHODS

MAX_SOURCE = 64 << 10
"""The most characters that a template's source may have."""

_LONGEST_MESSAGE = 500
_LONGEST_DATE_FORMAT = 100
_LOOP = frozenset(
    {
        "changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length",
        "nextitem", "previtem", "revindex", "revindex0",
    }
)  # fmt: skip
_ATTRIBUTES: dict[type, frozenset[str]] = {
    str: TEXT_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    LoopContext: _LOOP,
}


class Refused(Exception):
    """A template says, by ``raise_exception``, that it does not take a conversation."""


class ChatTemplate:
    """A compiled template, for one vocabulary."""

    def __init__(self, source: str, special: SpecialTokens) -> None:
        """Compile ``source``.

        Raises:
            ValueError: it cannot be compiled; the text says where and why.
        """
        if len(source) > MAX_SOURCE:
            raise ValueError(f"it has {len(source)} characters, more than {MAX_SOURCE}")
        self._special = special
        try:
            self._template: Template = _Environment(special).from_string(source)
        except Exception as error:  # not only Jinja's: it makes Python of it, which has limits, too
            line = getattr(error, "lineno", None)
            where = f"line {line}: " if isinstance(line, int) else ""
            raise ValueError(f"{where}{str(error) or type(error).__name__}") from error

    def render(self, variables: dict[str, Any], longest: int) -> str:
        """The text that the template makes; what is its own in it is marked.

        Args:
            variables: what it knows.
            longest: the most characters that the text may have.

        Raises:
            Refused: it does not take these variables.
            TooLong: the text is longer.
            OutOfWork: it does too much.
            SecurityError: it wants what it may not have.
            Exception: any other; a template is a program.
        """
        context = self._template.new_context(variables)
        assert isinstance(context, BoundedContext)
        context.meter, context.special = Meter(longest), self._special
        pieces, length = [], 0
        for piece in self._template.root_render_func(context):
            length += len(piece)
            if length > longest:
                raise TooLong(f"more than {longest} characters")
            pieces.append(piece)
        return "".join(pieces)


class _Generation(Extension):
    """``{% generation %}``, with which templates mark for training what a model has said."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class _Environment(SandboxedEnvironment):
    """Jinja's sandbox, where all that takes time or memory is counted."""

    intercepted_binops = frozenset(SandboxedEnvironment.default_binop_table)
    context_class = BoundedContext

    def __init__(self, special: SpecialTokens) -> None:
        # Not optimized: constants would be computed by the compiler, which does not count.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            optimized=False,
            finalize=printed,
        )
        self.special = special
        self.filters = FILTERS | OPERATORS
        self.tests = dict(TESTS)
        self.globals = {
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "range": safe_range,
            "strftime_now": _strftime_now,
        }

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        guarded: nodes.Template = Guard(self.special).visit(tree)
        guarded.set_environment(self)
        guarded.set_lineno(1)
        return guarded

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return attr in _ATTRIBUTES.get(type(obj), ())

    def getitem(self, obj: Any, argument: Any) -> Any:
        check_key(argument)
        if isinstance(argument, str):
            argument = self.special.plain(argument)
        return super().getitem(obj, argument)

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if name in OPERATORS:
            raise SecurityError(f"there is no filter {name!r}")
        return super().call_filter(name, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        context.meter.spend(CALL)
        BOUNDS[operator](context.meter, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        context.meter.spend(CALL)
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        if isinstance(obj, BuiltinMethodType) and type(obj.__self__) in _ATTRIBUTES:
            return _call_method(context, obj.__self__, obj.__name__, args, kwargs)
        if isinstance(obj, Macro | LoopContext):
            return context.call(obj, *args, **kwargs)
        if isinstance(obj, Undefined):
            return obj()  # it raises what says why
        if isinstance(obj, MethodType) and isinstance(obj.__self__, LoopContext):
            context.meter.go_through((args, kwargs))
            return obj(*args, **kwargs)
        if obj in (dict, Namespace):
            return _call_holder(context, obj, args, kwargs)
        if obj in self.globals.values():
            context.meter.go_through((args, kwargs))
            return obj(*context.plain(args), **context.plain(kwargs))
        raise SecurityError(f"a {type(obj).__name__} cannot be called")


def _call_holder(
    context: BoundedContext,
    holder: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> Any:
    context.meter.go_through(args)
    args = context.plain(args)
    for pairs in args:
        for key, _ in pairs.items() if isinstance(pairs, dict) else pairs:
            check_key(key)
    return holder(*args, **kwargs)


def _call_method(
    context: BoundedContext, subject: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]
) -> Any:
    if isinstance(subject, str):
        return context.text.call(subject, name, *args, **kwargs)
    context.meter.go_through((args, kwargs))
    if name in ("count", "index"):
        context.meter.go_through(subject)
        subject, args = context.plain(subject), [context.plain(arg) for arg in args]
    elif name == "get":
        args = [context.plain(args[0]), *args[1:]] if args else args
    return getattr(subject, name)(*args, **kwargs)


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message)[:_LONGEST_MESSAGE])


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format[:_LONGEST_DATE_FORMAT])
