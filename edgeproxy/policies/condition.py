"""Conditions: `country in [DE, FR] and path matches '/api/**' and not header:X-Debug`.

Rule 1: a condition reads facts of one request and nothing else; it has no loops and no functions, so that it
costs time linear in its own length and in what it reads.
Rule 2: whatever is wrong with one is said when the configuration is loaded, with a caret under the place.

    either   := both ("or" both)*
    both     := one ("and" one)*
    one      := "not" one | "(" either ")" | fact [test]
    test     := ("==" | "!=") value | ["not"] "in" "[" value ("," value)* "]"
              | "matches" pattern | "has" value
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from edgeproxy.context import Context
from edgeproxy.http.message import Request
from edgeproxy.policies.condition_facts import BARE, FACTS, Fact, Test, fact_named
from edgeproxy.record import record

LONGEST = 2_000  # characters
_MOST_TESTS = 64
_MOST_VALUES = 256
_DEEPEST = 16
_TOKEN = re.compile(r"""\s*(?:('[^']*'|"[^"]*")|(==|!=|[\[\](),])|([^\s'"\[\](),=!]+))""")
_WORDS = frozenset({"and", "or", "not", "in", "matches", "has"})


class ConditionError(ValueError):
    """A condition that says nothing; the message shows where."""

    def __init__(self, text: str, at: int, found: str, expected: str) -> None:
        flat = re.sub(r"\s", " ", text)
        start = max(0, at - 60)
        part = flat[start : at + 40]
        super().__init__(
            f"expected {expected}, found {found} at character {at + 1}\n    {part}\n    {' ' * (at - start)}^"
        )


@record
class _Token:
    kind: str  # "text" (quoted), "sign", "word", "end"
    text: str
    at: int


@record
class Condition:
    """A condition, ready: `holds(request, ctx)`. `facts` are those it reads, each once."""

    text: str
    facts: tuple[Fact, ...]
    holds: Test

    @property
    def kinds(self) -> frozenset[str]:
        """`country`, `header`, `claim` … : which kinds of facts it reads."""
        return frozenset([fact.kind for fact in self.facts])

    def names(self, kind: str) -> Iterator[str]:
        """The names of its facts of one kind: experiments of `variant`, say."""
        return (fact.name for fact in self.facts if fact.kind == kind)

    def values(self, request: Request, ctx: Context) -> tuple[tuple[str, str], ...]:
        """What its facts are now, for `explain`; credentials are `***`."""
        return tuple([(str(fact), fact.shown(request, ctx)) for fact in self.facts])


def condition(text: str, groups: Mapping[str, Iterable[str]] | None = None) -> Condition:
    """The condition that `text` says. `groups` are the words for countries of the `geo` section; None
    takes every word for one, for a look at the form alone. Raises ConditionError."""
    return _Parser(text, groups).condition()


class _Parser:
    """Recursive descent; the depth is bounded."""

    def __init__(self, text: str, groups: Mapping[str, Iterable[str]] | None) -> None:
        self._text = text
        self._groups = groups
        self._facts: dict[Fact, None] = {}
        self._count = 0
        if len(text) > LONGEST:
            raise ConditionError(text, LONGEST, f"{len(text)} characters", f"{LONGEST} or fewer")
        self._tokens = list(_tokens(text))
        self._next = 0

    def condition(self) -> Condition:
        test = self._either(0)
        token = self._peek()
        if token.kind != "end":
            raise self._wrong(token, "`and`, `or` or the end")
        return Condition(self._text, tuple(self._facts), test)

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _word(self, word: str) -> bool:
        """Take `word` if it comes next."""
        token = self._peek()
        found = token.kind in ("word", "sign") and token.text == word
        self._next += found
        return found

    def _wrong(self, token: _Token, expected: str) -> ConditionError:
        found = "the end" if token.kind == "end" else repr(token.text)
        return ConditionError(self._text, token.at, found, expected)

    def _either(self, depth: int) -> Test:
        tests = [self._both(depth)]
        while self._word("or"):
            tests.append(self._both(depth))
        return tests[0] if len(tests) == 1 else _any_of(tests)

    def _both(self, depth: int) -> Test:
        tests = [self._one(depth)]
        while self._word("and"):
            tests.append(self._one(depth))
        return tests[0] if len(tests) == 1 else _all_of(tests)

    def _one(self, depth: int) -> Test:
        if depth > _DEEPEST:
            raise self._wrong(self._peek(), f"at most {_DEEPEST} conditions inside each other")
        if self._word("not"):
            return _not(self._one(depth + 1))
        if self._word("("):
            test = self._either(depth + 1)
            if not self._word(")"):
                raise self._wrong(self._peek(), "`)`")
            return test
        return self._fact()

    def _fact(self) -> Test:
        token = self._take()
        fact = fact_named(token.text) if token.kind == "word" else None
        if fact is None:
            raise self._wrong(token, f"a fact: {', '.join(FACTS)}")
        self._count += 1
        if self._count > _MOST_TESTS:
            raise self._wrong(token, f"at most {_MOST_TESTS} tests")
        self._facts[fact] = None
        return self._test(fact, token)

    def _test(self, fact: Fact, named: _Token) -> Test:
        if self._word("=="):
            return self._member(fact, [self._value()], "==")
        if self._word("!="):
            return _not(self._member(fact, [self._value()], "=="))
        if self._word("in"):
            return self._member(fact, self._list(), "in")
        if self._word("matches"):
            return self._member(fact, [self._value()], "matches")
        if self._word("has"):
            return self._member(fact, [self._value()], "has")
        token = self._peek()
        if token.text == "not" and token.kind == "word":
            self._take()
            if not self._word("in"):
                raise self._wrong(self._peek(), "`in` after `not`")
            return _not(self._member(fact, self._list(), "in"))
        if fact.kind not in BARE:
            raise self._wrong(token, f"a test of {named.text}: ==, !=, in, not in or matches")
        return fact.is_there()

    def _list(self) -> list[_Token]:
        if not self._word("["):
            raise self._wrong(self._peek(), "a list, like [DE, FR]")
        values = [self._value()]
        while self._word(","):
            values.append(self._value())
            if len(values) > _MOST_VALUES:
                raise self._wrong(values[-1], f"at most {_MOST_VALUES} values")
        if not self._word("]"):
            raise self._wrong(self._peek(), "`,` or `]`")
        return values

    def _value(self) -> _Token:
        token = self._take()
        if token.kind in ("sign", "end") or (token.kind == "word" and token.text in _WORDS):
            raise self._wrong(token, "a value; put words like `and` in quotes")
        return token

    def _member(self, fact: Fact, values: list[_Token], word: str) -> Test:
        for value in values:  # each alone first: the caret belongs under the wrong one
            try:
                fact.test(word, [value.text], self._groups)
            except ValueError as error:
                raise self._wrong(value, str(error)) from None
        return fact.test(word, [value.text for value in values], self._groups)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at = len(text) - len(text[at:].lstrip())
            said = "a quote that ends" if text[at] in "'\"" else "a fact, a value, == or !="
            raise ConditionError(text, at, repr(text[at]), said)
        quoted, sign, word = match.groups()
        if quoted is not None:
            yield _Token("text", quoted[1:-1], match.start(1))
        elif sign is not None:
            yield _Token("sign", sign, match.start(2))
        else:
            yield _Token("word", word, match.start(3))
        at = match.end()
    yield _Token("end", "", end)


def _any_of(tests: list[Test]) -> Test:
    def either(request: Request, ctx: Context) -> bool:
        for test in tests:  # noqa: SIM110 - a generator would cost more than the tests
            if test(request, ctx):
                return True
        return False

    return either


def _all_of(tests: list[Test]) -> Test:
    def both(request: Request, ctx: Context) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if not test(request, ctx):
                return False
        return True

    return both


def _not(test: Test) -> Test:
    return lambda request, ctx: not test(request, ctx)


def _readable(text: str) -> str:
    condition(text)
    return text


WhenField = Annotated[
    str,
    AfterValidator(_readable),
    WithJsonSchema({"type": "string", "examples": ["method in [POST, PUT] and country not in [EU]"]}),
]
"""A condition in the configuration; names in it are checked where they are defined."""
