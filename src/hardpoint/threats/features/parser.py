"""Reads a relation from text, by recursive descent; nothing in the text is ever executed.

The grammar, loosest binding first::

    condition  := either ["implies" condition]
    either     := both {"or" both}
    both       := negation {"and" negation}
    negation   := "not" negation | comparison
    comparison := value [("<=" | "<" | ">=" | ">" | "==" | "!=") value]...
    value      := product {("+" | "-") product}
    product    := signed {("*" | "/") signed}
    signed     := "-" signed | atom
    atom       := number | feature | function "(" item {"," item} ")" | "(" condition ")"

A feature whose name is not an identifier is quoted in backticks. Functions: sum, min, max, abs, log of values;
count of conditions (a value counts where it is not 0). ``0 <= a <= b`` means ``0 <= a and a <= b``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NoReturn

from hardpoint.core.errors import ThreatError
from hardpoint.threats.features.expression import (
    CONDITIONS,
    And,
    Call,
    Compare,
    Condition,
    Count,
    Function,
    Implies,
    Negative,
    Node,
    Not,
    Number,
    Op,
    Or,
    Product,
    Quotient,
    Ref,
    Sum,
    Value,
    depth,
)

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<quoted>`[^`]*`)|(?P<word>[^\W\d]\w*)"
    r"|(?P<symbol><=|>=|==|!=|&&|\|\||\*\*|[<>=!&|+\-*/(),])|(?P<other>\S))"
)
_WRITE_INSTEAD = {
    "=": "write == for equality",
    "!": "write 'not', or != for inequality",
    "&": "write 'and'",
    "&&": "write 'and'",
    "|": "write 'or'",
    "||": "write 'or'",
    "**": "write a product instead of a power",
    "`": "close the backtick",
}
_FUNCTIONS = ("abs", "count", "log", "max", "min", "sum")
# One bracket costs nine Python frames, so this stays far below the interpreter's own limit.
_MAX_NESTING = 40
_MAX_DEPTH = 120


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    position: int


def parse_condition(text: str) -> Condition:
    """The condition that ``text`` states.

    Raises:
        ThreatError: names the position (from 1) of what cannot be read, and the cure.

    >>> parse_condition("2 * a <= b")
    Compare(op=<Op.LE: '<='>, left=Product(left=Number(value=2.0), right=Ref(name='a')), right=Ref(name='b'))
    """
    parser = _Parser(text)
    node = parser.condition()
    parser.expect_end()
    if depth(node) > _MAX_DEPTH:
        parser.fail(parser.tokens[0], "the relation is nested too deeply", "split it into several relations")
    return parser.as_condition(node, parser.tokens[0])


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [
            _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
            for found in _TOKEN.finditer(text)
            if found.lastgroup
        ]
        self.tokens.append(_Token("end", "", len(text)))
        self.at = 0
        self.nesting = 0

    # -- reading tokens

    def fail(self, token: _Token, what: str, cure: str) -> NoReturn:
        raise ThreatError(f"relation {self.text!r}, position {token.position + 1}: {what}", cure)

    def peek(self) -> _Token:
        return self.tokens[self.at]

    def accept(self, *texts: str) -> _Token | None:
        token = self.peek()
        if token.kind in ("symbol", "word") and token.text in texts:
            self.at += 1
            return token
        return None

    def expect(self, text: str) -> None:
        if self.accept(text) is None:
            self.unexpected(self.peek(), f"{text!r} expected")

    def expect_end(self) -> None:
        if self.peek().kind != "end":
            self.unexpected(self.peek(), "an operator or the end expected")

    def unexpected(self, token: _Token, wanted: str) -> NoReturn:
        found = "the end" if token.kind == "end" else repr(token.text)
        cure = _WRITE_INSTEAD.get(token.text, "write a relation such as 'a <= b' or 'a > 0 implies b > 0'")
        if token.kind == "word" and token.text not in ("and", "or", "not", "implies"):
            cure = "quote a name that is not one word in backticks, or put an operator before it"
        self.fail(token, f"{wanted}, {found} found", cure)

    # -- telling values from conditions

    def as_condition(self, node: Node, token: _Token) -> Condition:
        if not isinstance(node, CONDITIONS):
            self.fail(token, "a value stands where a condition is needed", "compare it, for example with > 0")
        return node

    def as_value(self, node: Node, token: _Token) -> Value:
        if isinstance(node, CONDITIONS):
            self.fail(token, "a condition stands where a value is needed", "count it: count(a > 0) is 1 or 0")
        return node

    # -- the grammar

    def condition(self) -> Node:
        first = self.peek()
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            self.fail(first, "the relation is nested too deeply", "split it into several relations")
        node = self.either()
        if self.accept("implies"):
            after = self.peek()
            node = Implies(self.as_condition(node, first), self.as_condition(self.condition(), after))
        self.nesting -= 1
        return node

    def either(self) -> Node:
        first = self.peek()
        node = self.both()
        if self.peek().text != "or":
            return node
        parts = [self.as_condition(node, first)]
        while self.accept("or"):
            after = self.peek()
            parts.append(self.as_condition(self.both(), after))
        return Or(tuple(parts))

    def both(self) -> Node:
        first = self.peek()
        node = self.negation()
        if self.peek().text != "and":
            return node
        parts = [self.as_condition(node, first)]
        while self.accept("and"):
            after = self.peek()
            parts.append(self.as_condition(self.negation(), after))
        return And(tuple(parts))

    def negation(self) -> Node:
        count = 0
        while self.accept("not"):
            count += 1
        first = self.peek()
        node = self.comparison()
        for _ in range(count):
            node = Not(self.as_condition(node, first))
        return node

    def comparison(self) -> Node:
        first = self.peek()
        node = self.value()
        chain: list[Condition] = []
        while sign := self.accept(*(op.value for op in Op)):
            after = self.peek()
            left = self.as_value(node, first)
            node, first = self.value(), after
            chain.append(Compare(Op(sign.text), left, self.as_value(node, after)))
        if not chain:
            return node
        return chain[0] if len(chain) == 1 else And(tuple(chain))

    def value(self) -> Node:
        first = self.peek()
        node = self.product()
        if self.peek().text not in ("+", "-"):
            return node
        terms = [self.as_value(node, first)]
        while sign := self.accept("+", "-"):
            after = self.peek()
            term = self.as_value(self.product(), after)
            terms.append(term if sign.text == "+" else _negative(term))
        return Sum(tuple(terms))

    def product(self) -> Node:
        first = self.peek()
        node = self.signed()
        while sign := self.accept("*", "/"):
            after = self.peek()
            left, right = self.as_value(node, first), self.as_value(self.signed(), after)
            node = Product(left, right) if sign.text == "*" else Quotient(left, right)
        return node

    def signed(self) -> Node:
        count = 0
        while self.accept("-"):
            count += 1
        first = self.peek()
        node = self.atom()
        for _ in range(count):
            node = _negative(self.as_value(node, first))
        return node

    def atom(self) -> Node:
        token = self.peek()
        if token.kind == "number":
            self.at += 1
            value = float(token.text)
            if not math.isfinite(value):
                self.fail(token, f"the number {token.text} is too large", "write a smaller one")
            return Number(value)
        if token.kind == "quoted" and len(token.text) > 2:
            self.at += 1
            return Ref(token.text[1:-1])
        if self.accept("("):
            node = self.condition()
            self.expect(")")
            return node
        if token.kind != "word" or token.text in ("and", "or", "not", "implies"):
            self.unexpected(token, "a number, a feature or '(' expected")
        self.at += 1
        return self.call(token) if self.accept("(") else Ref(token.text)

    def call(self, function: _Token) -> Node:
        if function.text not in _FUNCTIONS:
            self.fail(
                function, f"there is no function {function.text!r}", f"use one of: {', '.join(_FUNCTIONS)}"
            )
        items: list[tuple[Node, _Token]] = []
        while not items or self.accept(","):
            first = self.peek()
            items.append((self.condition(), first))
        self.expect(")")
        if function.text == "count":
            return Count(tuple(_countable(node) for node, _ in items))
        args = tuple(self.as_value(node, token) for node, token in items)
        if function.text == "sum":
            return Sum(args)
        if function.text in ("abs", "log") and len(args) != 1:
            self.fail(function, f"{function.text} takes one value, {len(args)} given", "give one value")
        return Call(Function(function.text), args)


def _negative(value: Value) -> Value:
    return Number(-value.value) if isinstance(value, Number) else Negative(value)


def _countable(node: Node) -> Condition:
    return node if isinstance(node, CONDITIONS) else Compare(Op.NE, node, Number(0.0))
