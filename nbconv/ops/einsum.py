"""Sums of products of arrays whose axes have letters (Einstein's notation)."""

from __future__ import annotations

from functools import cache
from math import prod
from string import ascii_letters
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nbconv.errors import ModelError
from nbconv.graph import Spec
from nbconv.graph import infer as want
from nbconv.graph.op import FLOAT32, Op
from nbconv.ops.linear import MatMul, reshape
from nbconv.ops.pad import Expand
from nbconv.ops.pointwise import Mul
from nbconv.ops.reduce import ReduceSum
from nbconv.ops.shape import Transpose

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nbconv.graph.backward import Backward, Expansion


class Term(NamedTuple):
    """A value on the way to the result, and a letter for each of its axes."""

    value: str
    letters: str


class Einsum(Op):
    """Σ over the letters that the result lacks of the product of the inputs, to whose axes ``equation`` gives letters:
    "ij,jk->ik" is a matrix product. "..." stands for axes that broadcast. Without "->" the result has the letters that come
    once, in order. An axis of size 1 broadcasts, as in NumPy."""

    is_layer = True
    parameters = (1, 0)

    equation: str

    def infer(self, *inputs: Spec) -> Spec:
        kinds = "fiu" if len(inputs) > 1 else "fiub"
        dtype = want.one_type(kinds, **{f"input {i}": x for i, x in enumerate(inputs)})
        terms, result = self.terms(inputs)
        sizes = self.sizes(terms, inputs)
        return want.make([sizes[letter] for letter in result], dtype)

    def terms(self, inputs: tuple) -> tuple[tuple[str, ...], str]:
        """The letters of each input and of the result, each "..." as letters of its own."""
        return parsed(self.equation, tuple(len(x.shape) for x in inputs))

    def sizes(self, terms: tuple[str, ...], inputs: tuple) -> dict[str, int]:
        """The size of each letter."""
        found: dict[str, int] = {}
        for i, (letters, x) in enumerate(zip(terms, inputs, strict=True)):
            for letter, size in zip(letters, x.shape, strict=True):
                if found.setdefault(letter, size) == 1:
                    found[letter] = size
                elif size not in (1, found[letter]):
                    raise ModelError(f"input {i} has {size} along {letter!r} of {self.equation!r}, others {found[letter]}")
        return found

    def reference(self, *inputs: np.ndarray) -> np.ndarray:
        terms, result = self.terms(inputs)
        wide = [x.astype(np.float32) if x.dtype == np.float16 else x for x in inputs]
        with np.errstate(all="ignore"):
            y = np.einsum(f"{','.join(terms)}->{result}", *wide, optimize=len(inputs) > 2)
        return np.array(y, inputs[0].dtype)

    def flops(self, inputs, outputs) -> int:
        """Of the products, taken one after another."""
        terms, result = self.terms(inputs)
        sizes, total, here = self.sizes(terms, inputs), 0, set(terms[0])
        for i, letters in enumerate(terms[1:], 1):
            here |= set(letters)
            total += 2 * prod(sizes[letter] for letter in here)
            here &= set(result).union(*terms[i + 1 :])
        return total or inputs[0].size

    def expand(self, to: Expansion) -> str | None:
        """Products of two, one after another, as MatMul or Mul of transposed inputs; not where a letter comes twice in one
        input (a diagonal)."""
        letters, result = self.terms(to.inputs)
        if any(x.dtype != FLOAT32 or x.size == 0 for x in to.inputs) or any(len(set(t)) < len(t) for t in letters):
            return None
        sizes = self.sizes(letters, to.inputs)
        terms = [_without_ones(to, Term(to.x(i), t)) for i, t in enumerate(letters)]
        while len(terms) > 1:
            kept = set(result).union(*(t.letters for t in terms[2:]))
            terms[:2] = [_product(to, terms[0], terms[1], kept, sizes, result)]
        term = _summed(to, terms[0], set(result))
        missing = [letter for letter in result if letter not in term.letters]  # of size 1 in all inputs that have it
        shape = [sizes[letter] for letter in (*missing, *term.letters)]
        return _ordered(to, Term(_shaped(to, term.value, shape), "".join(missing) + term.letters), result)

    def gradient(self, to: Backward) -> tuple[str | None, ...]:
        """dy takes the place of the input, whose letters become the result's; letters that nothing else has are repeated,
        those that come twice go onto the diagonal."""
        terms, result = self.terms(to.inputs)
        return tuple(self._gradient(to, i, terms, result) if to.wants(i) else None for i in range(len(terms)))

    def _gradient(self, to: Backward, i: int, terms: tuple[str, ...], result: str) -> str:
        x, sizes = to.inputs[i], self.sizes(terms, to.inputs)
        others = [Term(to.dy(), result), *(Term(to.x(j), t) for j, t in enumerate(terms) if j != i)]
        spare = iter(sorted(set(ascii_letters) - set(result).union(*terms)))
        target = ""
        for letter in terms[i]:
            if letter in target:
                fresh = next(spare)
                others.append(Term(to.constant(np.eye(sizes[letter], dtype=x.dtype)), letter + fresh))
                letter = fresh
            target += letter
        there = self.sizes(tuple(t.letters for t in others), tuple(to.spec(t.value) for t in others))
        made = "".join(a for a, d in zip(target, x.shape, strict=True) if there.get(a) == d)
        dx = to.add(Einsum(equation=f"{','.join(t.letters for t in others)}->{made}"), *(t.value for t in others))
        dx = reshape(to, dx, tuple(d if a in made else 1 for a, d in zip(target, x.shape, strict=True)))
        return dx if to.spec(dx).shape == x.shape else to.add(Expand(), dx, to.constant(np.array(x.shape, np.int64)))


@cache
def parsed(equation: str, ranks: tuple[int, ...]) -> tuple[tuple[str, ...], str]:
    """`Einsum.terms` for inputs of these ranks."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    given = left.split(",")
    spare = "".join(sorted(set(ascii_letters) - set(equation)))
    if len(given) != len(ranks):
        raise ModelError(f"equation {equation!r} has {len(given)} terms for {len(ranks)} inputs")
    dots = [rank - len(term) + 3 if "..." in term else 0 for term, rank in zip(given, ranks, strict=True)]
    most = max(dots)
    if not 0 <= min(dots) <= most <= len(spare):
        raise ModelError(f"equation {equation!r} does not fit inputs of ranks {', '.join(map(str, ranks))}")
    terms = tuple(t.replace("...", spare[most - n : most], 1) for t, n in zip(given, dots, strict=True))
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        right = "..." * ("..." in left) + "".join(once)
    result = right.replace("...", spare[:most], 1)
    if not set("".join((*terms, result))) <= set(ascii_letters):
        raise ModelError(f"equation {equation!r} has other characters than letters, ',', '...' and '->'")
    for i, (term, rank) in enumerate(zip(terms, ranks, strict=True)):
        if len(term) != rank:
            raise ModelError(f"equation {equation!r} gives input {i} {len(term)} axes, it has {rank}")
    if len(set(result)) < len(result) or not set(result) <= set("".join(terms)):
        raise ModelError(f"equation {equation!r}: its result has a letter twice, or one that no input has")
    return terms, result


def _shaped(to: Expansion, x: str, shape: Iterable[int]) -> str:
    return reshape(to, x, tuple(shape))


def _ordered(to: Expansion, term: Term, letters: str) -> str:
    """The term's value with its axes in this order."""
    perm = tuple(term.letters.index(letter) for letter in letters)
    return term.value if perm == tuple(range(len(perm))) else to.add(Transpose(perm=perm), term.value)


def _without_ones(to: Expansion, term: Term) -> Term:
    """Without the axes of size 1."""
    shape = to.spec(term.value).shape
    kept = [(letter, d) for letter, d in zip(term.letters, shape, strict=True) if d != 1]
    return Term(_shaped(to, term.value, (d for _, d in kept)), "".join(letter for letter, _ in kept))


def _summed(to: Expansion, term: Term, kept: set[str]) -> Term:
    """Summed over all letters but these."""
    axes = [i for i, letter in enumerate(term.letters) if letter not in kept]
    if not axes:
        return term
    value = to.add(ReduceSum(keepdims=0), term.value, to.constant(np.array(axes, np.int64)))
    return Term(value, "".join(letter for letter in term.letters if letter in kept))


def _product(to: Expansion, a: Term, b: Term, kept: set[str], sizes: dict[str, int], result: str) -> Term:
    """The product of two terms summed over all letters but these."""
    a, b = _summed(to, a, kept | set(b.letters)), _summed(to, b, kept | set(a.letters))
    if to.spec(a.value).constant and not to.spec(b.value).constant:  # weights stand on the right
        a, b = b, a
    both = [letter for letter in a.letters if letter in b.letters]
    inner = "".join(letter for letter in both if letter not in kept)
    if not inner:
        return _elementwise(to, a, b, sizes, result)
    batch = "".join(letter for letter in both if letter in kept)
    rows = "".join(letter for letter in a.letters if letter not in both)
    columns = "".join(letter for letter in b.letters if letter not in both)

    def matrix(term: Term, first: str, second: str) -> str:
        shape = [prod(sizes[letter] for letter in part) for part in (batch, first, second)]
        return _shaped(to, _ordered(to, term, batch + first + second), shape if batch else shape[1:])

    y = to.add(MatMul(), matrix(a, rows, inner), matrix(b, inner, columns))
    letters = batch + rows + columns
    return Term(_shaped(to, y, (sizes[letter] for letter in letters)), letters)


def _elementwise(to: Expansion, a: Term, b: Term, sizes: dict[str, int], result: str) -> Term:
    """The product of two terms of which nothing is summed, in the result's order as far as it has the letters."""
    own = a.letters + "".join(letter for letter in b.letters if letter not in a.letters)
    letters = "".join(letter for letter in result if letter in own)
    letters += "".join(letter for letter in own if letter not in letters)

    def spread(term: Term) -> str:
        ordered = _ordered(to, term, "".join(letter for letter in letters if letter in term.letters))
        return _shaped(to, ordered, (sizes[letter] if letter in term.letters else 1 for letter in letters))

    return Term(to.add(Mul(), spread(a), spread(b)), letters)
