"""Checks an expression against the names and types of a policy, and compiles it to two rails of code.

The rails (see ``Expression``) are exchanged by ``not``; ``and`` holds where both hold and fails where one
fails; ``or`` is the mirror image. Unknown is nowhere a value: it is where neither rail is true.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import cast

from .expression_references import PLACES, Condition, Mistake, Number, References, Scope
from .expression_terms import FUNCTIONS, NAMESPACE
from .expressions import Code, Expression
from .names import nearest

MAX_CHARACTERS = 2000
MAX_DEPTH = 40
"""Of an expression's tree: beyond what a person reads, and well within what Python's own parser takes."""

_GROUPS = ("any", "all", "count")
RESERVED = frozenset({"this", "signal", "isnan", *PLACES, *_GROUPS, *FUNCTIONS})
"""Words of the language, which no monitor may take for its name."""

_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "({} + {})",
    ast.Sub: "({} - {})",
    ast.Mult: "({} * {})",
    ast.Div: "divide({}, {})",
    ast.Pow: "power({}, {})",
}
_SAME = "({a.least} == {b.most} and {a.most} == {b.least})"
_APART = "({a.most} < {b.least} or {a.least} > {b.most})"
_COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("({a.most} < {b.least})", "({a.least} >= {b.most})"),
    ast.LtE: ("({a.most} <= {b.least})", "({a.least} > {b.most})"),
    ast.Gt: ("({a.least} > {b.most})", "({a.most} <= {b.least})"),
    ast.GtE: ("({a.least} >= {b.most})", "({a.most} < {b.least})"),
    ast.Eq: (_SAME, _APART),
    ast.NotEq: (_APART, _SAME),
}
"""Where a comparison holds, and where it fails: false on both sides for NaN, so never a ``not``."""

_UNDECIDED = Condition("False", "False")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_FOREIGN = re.compile(r"(&&?)|(\|\|?)|(!(?!=))|((?<![<>=!])=(?!=))")
_MEANT = ("and", "or", "not", "==")

Report = Callable[[int, str], None]
"""Takes a mistake: at which character of the expression, and what it is."""


def compile_expression(text: str, scope: Scope, report: Report) -> Expression | None:
    """Compile a condition. Every mistake in it goes to ``report``; None comes back if there was one."""
    tree = _tree(text, report)
    return None if tree is None else _Compiler(text, scope, report).compiled(tree)


def compile_number(text: str, scope: Scope, report: Report) -> Expression | None:
    """Compile what is one number, for ``Expression.number``; mistakes are told as those of a condition."""
    tree = _tree(text, report)
    return None if tree is None else _Compiler(text, scope, report).compiled_number(tree)


def _tree(text: str, report: Report) -> ast.expr | None:
    try:
        return _parsed(text)
    except _Unreadable as error:
        report(error.offset, str(error))
        return None


class _Unreadable(ValueError):
    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


def _parsed(text: str) -> ast.expr:
    if len(text) > MAX_CHARACTERS:
        raise _Unreadable(0, f"an expression has at most {MAX_CHARACTERS} characters, this one {len(text)}")
    bare = _QUOTED.sub(lambda quoted: "_" * len(quoted[0]), text)
    for (
        character
    ) in "#\\":  # a comment would hide what follows it; escapes would make names that nobody reads
        if character in (bare if character == "#" else text):
            raise _Unreadable(text.index(character), f"'{character}' is not part of the expression language")
    try:
        with warnings.catch_warnings(action="ignore"):
            return ast.parse(text.replace("\n", " "), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        foreign = _FOREIGN.search(bare)
        if foreign and foreign.lastindex:
            meant = _MEANT[foreign.lastindex - 1]
            raise _Unreadable(foreign.start(), f"write '{meant}', not '{foreign[0]}'") from None
        offset = (getattr(error, "offset", None) or 1) - 1
        raise _Unreadable(max(0, min(offset, len(text) - 1)), "cannot be read as an expression") from None


class _Compiler:
    """One walk over one expression's tree. A mistake ends its own branch only: the others are checked too."""

    def __init__(self, text: str, scope: Scope, report: Report) -> None:
        self._text = text
        self._bytes = text.encode()
        self._report = report
        self._names = References(scope, self._words)
        self._mistaken = False
        self._depth = 0

    def compiled(self, tree: ast.expr) -> Expression | None:
        condition = self._condition(tree)
        return self._expression(tree, f"True if {condition.holds} else False if {condition.fails} else None")

    def compiled_number(self, tree: ast.expr) -> Expression | None:
        return self._expression(tree, self._exact(tree))

    def _expression(self, tree: ast.expr, code: str) -> Expression | None:
        names = self._names
        if not (self._mistaken or names.monitors or names.signals):
            self._note(Mistake(tree, "reads nothing that is measured: name a monitor or a signal"))
        if self._mistaken:
            return None
        operands = ", ".join(f"{words!r}: {code}" for words, code in names.operands.items())
        return Expression(
            text=self._text,
            monitors=frozenset(names.monitors),
            signals=frozenset(names.signals),
            grouped=frozenset(names.grouped),
            foreach=names.foreach,
            uses_before="before" in names.places,
            uses_target="target" in names.places,
            verdict=_code(code),
            operands=_code(f"{{{operands}}}"),
        )

    def _words(self, node: ast.expr) -> str:
        """The policy's own words for a node (whose columns count bytes)."""
        words = self._bytes[node.col_offset : node.end_col_offset].decode()
        return words if len(words) <= 60 else f"{words[:57]}..."

    def _note(self, mistake: Mistake) -> None:
        self._mistaken = True
        self._report(len(self._bytes[: mistake.node.col_offset].decode()), mistake.message)

    def _condition(self, node: ast.expr) -> Condition:
        term = self._term(node)
        if isinstance(term, Number):
            words = self._words(node)
            self._note(
                Mistake(node, f"'{words}' is a number, not a condition: compare it, as in '{words} > 3'")
            )
        return term if isinstance(term, Condition) else _UNDECIDED

    def _number(self, node: ast.expr) -> Number:
        term = self._term(node)
        if isinstance(term, Condition):
            self._note(Mistake(node, f"'{self._words(node)}' is a condition, not a number"))
        return term if isinstance(term, Number) else Number("nan", "nan")

    def _exact(self, node: ast.expr) -> str:
        """The code of a number to compute with."""
        number = self._number(node)
        if number.least != number.most:
            self._note(Mistake(node, "count(...) can be compared with a number, but not computed with"))
        return number.least

    def _term(self, node: ast.expr) -> Condition | Number | None:
        self._depth += 1
        try:
            return self._translated(node)
        except Mistake as mistake:
            self._note(mistake)
            return None
        finally:
            self._depth -= 1

    def _translated(self, node: ast.expr) -> Condition | Number:
        if self._depth > MAX_DEPTH:
            raise Mistake(node, f"an expression is nested at most {MAX_DEPTH} deep")
        match node:
            case ast.BoolOp():
                return _joined(
                    isinstance(node.op, ast.And), [self._condition(value) for value in node.values]
                )
            case ast.UnaryOp(op=ast.Not()):
                operand = self._condition(node.operand)
                return Condition(operand.fails, operand.holds)
            case ast.UnaryOp(op=ast.USub()):
                return _exactly(f"(-{self._exact(node.operand)})")
            case ast.UnaryOp(op=ast.UAdd()):
                return _exactly(self._exact(node.operand))
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                return _exactly(
                    _ARITHMETIC[type(node.op)].format(self._exact(node.left), self._exact(node.right))
                )
            case ast.Compare():
                return self._comparison(node)
            case ast.Call(func=ast.Name(id=name)):
                return self._call(node, name)
            case ast.Attribute():
                return self._names.attribute(node)
            case ast.Constant(value=bool(value)):
                return Condition(str(value), str(not value))
            case ast.Constant(value=int(value) | float(value)):
                return _constant(node, value)
            case ast.Name():
                raise self._names.alone(node)
        raise Mistake(node, f"'{self._words(node)}' is not part of the expression language")

    def _comparison(self, node: ast.Compare) -> Condition:
        if not all(type(operator) in _COMPARISONS for operator in node.ops):
            raise Mistake(node, f"'{self._words(node)}' is not part of the expression language")
        numbers = [self._number(operand) for operand in (node.left, *node.comparators)]
        links = []
        for operator, (a, b) in zip(node.ops, pairwise(numbers), strict=True):
            holds, fails = _COMPARISONS[type(operator)]
            links.append(Condition(holds.format(a=a, b=b), fails.format(a=a, b=b)))
        return _joined(True, links)

    def _call(self, node: ast.Call, name: str) -> Condition | Number:
        if name in _GROUPS:
            return self._grouped(node, name)
        if name == "isnan":
            reading = self._names.measured(self._only_argument(node, name))
            return Condition(f"is_nan({reading})", f"is_no_nan({reading})")
        if name == "signal":
            raise self._names.alone(node)
        if name not in FUNCTIONS:
            raise Mistake(
                node, f"there is no function '{name}'{nearest(name, (*FUNCTIONS, *_GROUPS, 'isnan'))}"
            )
        code, arity = FUNCTIONS[name]
        if node.keywords or (len(node.args) != arity if arity else len(node.args) < 2):
            wanted = "one number" if arity == 1 else "two numbers or more"
            raise Mistake(node, f"{name}() takes {wanted}")
        return _exactly(f"{code}({', '.join(self._exact(argument) for argument in node.args)})")

    def _grouped(self, node: ast.Call, name: str) -> Condition | Number:
        """``any`` and ``all`` follow Kleene; ``count`` lies between the known and the possible.

        Over no instance at all, each is unknown: nothing was measured.
        """
        argument = self._only_argument(node, name)
        with self._names.group(node) as group:
            each = self._condition(argument)
        of = f"for i, r in {group}.items()"
        some_hold, some_fail = f"any({each.holds} {of})", f"any({each.fails} {of})"
        all_hold, all_fail = f"({group} and all({each.holds} {of}))", f"({group} and all({each.fails} {of}))"
        if name == "any":
            return Condition(some_hold, all_fail)
        if name == "all":
            return Condition(all_hold, some_fail)
        least, most = f"sum(1 {of} if {each.holds})", f"sum(1 {of} if not {each.fails})"
        return Number(f"({least} if {group} else nan)", f"({most} if {group} else nan)")

    def _only_argument(self, node: ast.Call, name: str) -> ast.expr:
        if len(node.args) != 1 or node.keywords:
            raise Mistake(node, f"{name}() takes one argument")
        return node.args[0]


def _exactly(code: str) -> Number:
    return Number(code, code)


def _joined(by_and: bool, parts: list[Condition]) -> Condition:
    held, failed = [part.holds for part in parts], [part.fails for part in parts]
    if by_and:
        return Condition(f"({' and '.join(held)})", f"({' or '.join(failed)})")
    return Condition(f"({' or '.join(held)})", f"({' and '.join(failed)})")


def _constant(node: ast.expr, value: int | float) -> Number:
    """As a float, always: a power of Python's whole numbers could fill the memory."""
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isinf(number):
        raise Mistake(node, "the number is too large")
    return _exactly(repr(number))


def _code(source: str) -> Code:
    # Safe: the source is put together from fixed templates, numbers, and names as quoted by repr().
    return cast(Code, eval(f"lambda R, I, B, T: {source}", NAMESPACE))
