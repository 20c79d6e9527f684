"""Rewrites the syntax tree of a template so that all it does is counted, and its text marked.

What is not known here is refused, so nothing that Jinja learns later goes uncounted.
"""

from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import TemplateSyntaxError
from jinja2.visitor import NodeTransformer

from gateway.chat import operators
from gateway.chat.meter import CALL, NODE
from gateway.chat.special import SpecialTokens

OPERATORS = {
    "_as_key": operators.as_key,
    "_compare": operators.compare,
    "_concatenate": operators.concatenate,
    "_given": operators.given,
    "_iterated": operators.iterated,
    "_part": operators.part,
    "_spend": operators.spend,
}
"""The filters that a tree is rewritten to, by name."""

_KNOWN = (
    nodes.Add, nodes.And, nodes.Assign, nodes.AssignBlock, nodes.Break, nodes.Call,
    nodes.CallBlock, nodes.Compare, nodes.Concat, nodes.CondExpr, nodes.Const, nodes.Continue,
    nodes.Dict, nodes.Div, nodes.ExprStmt, nodes.Filter, nodes.FilterBlock, nodes.FloorDiv,
    nodes.For, nodes.Getattr, nodes.Getitem, nodes.If, nodes.Keyword, nodes.List, nodes.Macro,
    nodes.Mod, nodes.Mul, nodes.NSRef, nodes.Name, nodes.Neg, nodes.Not, nodes.Operand, nodes.Or,
    nodes.Output, nodes.Pair, nodes.Pos, nodes.Pow, nodes.Slice, nodes.Sub,
    nodes.Template, nodes.TemplateData, nodes.Test, nodes.Tuple, nodes.With,
)  # fmt: skip

# Of these, text that is given to a filter can come to stand in the prompt.
_FILTERS_THAT_PASS_TEXT_ON = {"d", "default", "join", "replace"}


class Guard(NodeTransformer):
    """Rewrites the tree of one template."""

    def __init__(self, special: SpecialTokens) -> None:
        """Mark the template's text by the special tokens of the model."""
        self._special = special

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """Rewrite ``node`` and all below it."""
        if type(node) not in _KNOWN:
            _refuse(f"{type(node).__name__!r} is not available", node)
        return super().visit(node, *args, **kwargs)

    def visit_Const(self, node: nodes.Const) -> nodes.Node:
        """A value in an expression."""
        return nodes.Const(self._special.mark(node.value)) if type(node.value) is str else node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """Text outside of expressions; as a value it is counted when it is written."""
        return nodes.Const(self._special.mark(node.data))

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b``."""
        first, *others = [self.visit(operand) for operand in node.nodes]
        return _filter(first, "_concatenate", others, node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """``a == b``, ``a < b < c``, ``a in b``."""
        args: list[nodes.Expr] = []
        for operand in node.ops:
            args += nodes.Const(operand.op), self.visit(operand.expr)
        return _filter(self.visit(node.expr), "_compare", args, node)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``a[b]``, ``a[b:c]``."""
        subject = self.visit(node.node)
        if isinstance(node.arg, nodes.Slice):
            bounds = (node.arg.start, node.arg.stop, node.arg.step)
            args = [nodes.Const(None) if bound is None else self.visit(bound) for bound in bounds]
            return _filter(subject, "_part", args, node)
        return nodes.Getitem(subject, self._key(node.arg), node.ctx, lineno=node.lineno)

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        """``key: value`` in a dictionary."""
        return nodes.Pair(self._key(node.key), self.visit(node.value), lineno=node.lineno)

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        """``a | filter(b)``."""
        if node.name in OPERATORS:
            _refuse(f"there is no filter {node.name!r}", node)
        return self._count_given(node, marked=node.name in _FILTERS_THAT_PASS_TEXT_ON)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        """``a is test(b)``."""
        return self._count_given(node, marked=False)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        """``a(b)``; what it is given, the call itself looks at."""
        self.generic_visit(node)
        for name in ("dyn_args", "dyn_kwargs"):
            spread = getattr(node, name)
            if spread is not None:
                setattr(node, name, _filter(spread, "_iterated", [nodes.Const(NODE)], node))
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A loop; each time round its body is paid for before it begins."""
        if node.recursive and node.test is not None:
            _refuse("a loop that calls itself cannot pass over items", node)
        filtering = nodes.Const(_work([node.test] if node.test is not None else []))
        self._pay_for(node, node.body)
        items: Any = node.iter
        node.iter = _filter(items, "_iterated", [filtering], node)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        """A macro; the body is paid for at each call."""
        return self._pay_for(node, [*node.defaults, *node.body])

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """A macro without a name."""
        return self._pay_for(node, [*node.defaults, *node.body])

    def _pay_for(
        self, node: nodes.For | nodes.Macro | nodes.CallBlock, parts: list[Any]
    ) -> nodes.Node:
        work = nodes.Const(CALL + _work(parts))
        self.generic_visit(node)
        payment = _filter(work, "_spend", [], node)
        node.body.insert(0, nodes.ExprStmt(payment, lineno=node.lineno))
        return node

    def _key(self, node: nodes.Expr) -> nodes.Expr:
        if isinstance(node, nodes.Const) and type(node.value) is str:
            return node
        return _filter(self.visit(node), "_as_key", [], node)

    def _count_given(self, node: nodes.Filter | nodes.Test, marked: bool) -> nodes.Node:
        """Go through all that a filter or a test is given besides its subject."""
        if node.node is not None:
            node.node = self.visit(node.node)
        node.args = [self._given(arg, marked) for arg in node.args]
        for keyword in node.kwargs:
            keyword.value = self._given(keyword.value, marked)
        for name in ("dyn_args", "dyn_kwargs"):
            spread = getattr(node, name)
            if spread is not None:
                setattr(node, name, self._given(spread, marked))
        return node

    def _given(self, node: nodes.Expr, marked: bool) -> Any:
        if isinstance(node, nodes.Const):  # no longer than the source
            return self.visit(node) if marked else node
        return _filter(self.visit(node), "_given", [], node)


def _filter(subject: nodes.Expr, name: str, args: list[nodes.Expr], at: nodes.Node) -> nodes.Filter:
    return nodes.Filter(subject, name, args, [], None, None, lineno=at.lineno)


def _work(parts: list[Any]) -> int:
    """The work for all nodes in some parts of a tree, each executed once."""
    below = (sum(1 for _ in part.find_all(nodes.Node)) for part in parts)
    return NODE * (len(parts) + sum(below))


def _refuse(message: str, node: nodes.Node) -> NoReturn:
    raise TemplateSyntaxError(message, node.lineno)
