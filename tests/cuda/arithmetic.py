"""Python for PTX's arithmetic, comparison, logic and conversion instructions (PTX ISA 9.0, 9.7.1 to 9.7.9)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.cuda.ptx import Instruction

if TYPE_CHECKING:
    from tests.cuda.translate import Translator

Handler = Callable[["Translator", Instruction], None]
ROUNDINGS = ("rn", "rz", "rm", "rp")
FUNCTIONS = {"add": "np.add", "sub": "np.subtract", "mul": "np.multiply", "and": "np.bitwise_and", "or": "np.bitwise_or"}
FUNCTIONS |= {"xor": "np.bitwise_xor"}
INTEGER_ROUNDINGS = {"rni": "np.rint", "rzi": "np.trunc", "rmi": "np.floor", "rpi": "np.ceil"}


def _directed(i: Instruction) -> str | None:
    return next((m for m in i.mods if m in ("rz", "rm", "rp")), None)


def _floats(t: Translator, i: Instruction, operands: tuple[str, ...], dtype: str) -> list[str]:
    values = [t.get(o, dtype) for o in operands]
    return [f"numeric.flush({v})" for v in values] if "ftz" in i.mods else values


def _put_float(t: Translator, i: Instruction, expression: str, dtype: str) -> None:
    if "ftz" in i.mods:
        expression = f"numeric.flush({expression})"
    if "sat" in i.mods:
        expression = f"numeric.saturate({expression})"
    t.put(i.operands[0], expression, dtype)


def _add_sub_mul(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types(*ROUNDINGS, "ftz", "sat", "lo", "hi", "wide")
    if dtype[0] == "f":
        values = _floats(t, i, i.operands[1:], dtype)
        mode = _directed(i)
        if mode and dtype != "f4":
            raise t.error("unsupported rounding")
        call = f"numeric.directed({i.op!r}, {mode!r}, " if mode else f"{FUNCTIONS[i.op]}("
        return _put_float(t, i, f"{call}{', '.join(values)})", dtype)
    if "sat" in i.mods:
        raise t.error("unsupported modifier .sat in")
    return _put_integer_product(t, i, dtype) if i.op == "mul" else _integer(t, i, FUNCTIONS[i.op], dtype)


def _integer(t: Translator, i: Instruction, function: str, dtype: str) -> None:
    """An operation whose bits are the same for signed and unsigned."""
    unsigned = f"u{dtype[1]}" if dtype != "?" else dtype
    values = ", ".join(t.get(o, unsigned) for o in i.operands[1:])
    t.put(i.operands[0], _collapsed(t, i, f"{function}({values})"), unsigned)


def _product(t: Translator, i: Instruction, dtype: str) -> tuple[str, str]:
    """The expression and dtype of mul's or mad's product of operands 1 and 2."""
    if "wide" in i.mods:
        a, b = (t.get(o, dtype) for o in i.operands[1:3])
        return f"numeric.multiply_wide({a}, {b})", f"{dtype[0]}{2 * int(dtype[1])}"
    if "hi" in i.mods:
        a, b = (t.get(o, dtype) for o in i.operands[1:3])
        return f"numeric.multiply_high({a}, {b})", dtype
    unsigned = f"u{dtype[1]}"
    a, b = (t.get(o, unsigned) for o in i.operands[1:3])
    return f"np.multiply({a}, {b})", unsigned


def _put_integer_product(t: Translator, i: Instruction, dtype: str) -> None:
    expression, result = _product(t, i, dtype)
    t.put(i.operands[0], expression, result)


def _fma(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types(*ROUNDINGS, "ftz", "sat", "lo", "hi", "wide")
    if dtype[0] != "f":
        expression, result = _product(t, i, dtype)
        return t.put(i.operands[0], f"np.add({expression}, {t.get(i.operands[3], result)})", result)
    values = ", ".join(_floats(t, i, i.operands[1:], dtype))
    mode = _directed(i)
    if mode and dtype != "f4":
        raise t.error("unsupported rounding")
    return _put_float(t, i, f"numeric.directed('fma', {mode!r}, {values})" if mode else f"numeric.fma({values})", dtype)


def _div(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types("rn", "approx", "full", "ftz")
    if dtype[0] == "f":
        return _put_float(t, i, f"np.divide({', '.join(_floats(t, i, i.operands[1:], dtype))})", dtype)
    a, b = (t.get(o, dtype) for o in i.operands[1:])
    quotient = f"np.floor_divide({a}, {b})" if dtype[0] == "u" else f"numeric.divide({a}, {b})"
    return t.put(i.operands[0], _collapsed(t, i, quotient), dtype)


def _rem(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    a, b = (t.get(o, dtype) for o in i.operands[1:])
    t.put(i.operands[0], f"np.remainder({a}, {b})" if dtype[0] == "u" else f"numeric.remainder({a}, {b})", dtype)


def _min_max(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types("ftz", "NaN")
    if dtype[0] != "f":
        function = {"min": "np.minimum", "max": "np.maximum"}[i.op]
        return t.put(i.operands[0], f"{function}({t.get(i.operands[1], dtype)}, {t.get(i.operands[2], dtype)})", dtype)
    a, b = _floats(t, i, i.operands[1:], dtype)
    result = f"numeric.{i.op}imum({a}, {b})"
    if "NaN" in i.mods:
        result = f"where(np.isnan({a}) | np.isnan({b}), np.{dtype_name(dtype)}('nan'), {result})"
    return _put_float(t, i, result, dtype)


def dtype_name(dtype: str) -> str:
    return {"f4": "float32", "f8": "float64"}[dtype]


def _unary(function: str, *allowed: str) -> Handler:
    """abs, neg, sqrt and the approximations."""

    def emit(t: Translator, i: Instruction) -> None:
        (dtype,) = t.types("ftz", *allowed)
        if dtype[0] == "f":
            (value,) = _floats(t, i, i.operands[1:], dtype)
            return _put_float(t, i, f"{function}({value})", dtype)
        return t.put(i.operands[0], f"{function}({t.get(i.operands[1], dtype)})", dtype)

    return emit


def _not(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    t.put(i.operands[0], f"~{t.get(i.operands[1], dtype)}", dtype)


def _cnot(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    t.put(i.operands[0], f"({t.get(i.operands[1], dtype)} == 0).astype('{dtype}')", dtype)


def _logic(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    _integer(t, i, FUNCTIONS[i.op], dtype)


def _shift(t: Translator, i: Instruction) -> None:
    """Amounts past the width shift everything out, in PTX as in NumPy."""
    (dtype,) = t.types()
    value = t.get(i.operands[1], dtype)
    literal = t.literal(i.operands[2])
    kind = dtype if literal is not None else "u4"
    amount = t.get(i.operands[2], kind)
    if kind != dtype:
        amount = f"np.minimum({amount}, np.uint32({8 * int(dtype[1])})).astype('{dtype}')"
    result = f"np.{'left' if i.op == 'shl' else 'right'}_shift({value}, {amount})"
    t.put(i.operands[0], _collapsed(t, i, result), dtype)


def _collapsed(t: Translator, i: Instruction, expression: str) -> str:
    """What the arithmetic of a warp's or lane's number ends in: the result may be the same over the lanes or the warps."""
    if i.op not in ("shr", "and", "div") or i.mods[-1] == "pred":
        return expression
    value = t.literal(i.operands[2])
    if not isinstance(value, int):
        return expression
    over_lanes = (i.op == "shr" and value >= 5) or (i.op == "div" and value % 32 == 0) or (i.op == "and" and value & 31 == 0)
    return f"M.collapse({expression})" if over_lanes or (i.op == "and" and 0 < value < 32) else expression


COMPARE = {
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
INVERSE = {"lt": ">=", "le": ">", "gt": "<=", "ge": "<"}


def _comparison(a: str, b: str, how: str, dtype: str) -> str:
    """Ordered comparisons are false with NaN, unordered ones (`ltu`) true."""
    if dtype[0] != "f" or how == "eq":
        return f"({a} {COMPARE[how]} {b})"
    if how == "ne":
        return f"(({a} < {b}) | ({a} > {b}))"
    if how == "equ":
        return f"~(({a} < {b}) | ({a} > {b}))"
    if how == "neu":
        return f"({a} != {b})"
    if how == "num":
        return f"~(np.isnan({a}) | np.isnan({b}))"
    if how == "nan":
        return f"(np.isnan({a}) | np.isnan({b}))"
    return f"~({a} {INVERSE[how[:2]]} {b})" if how.endswith("u") else f"({a} {COMPARE[how]} {b})"


def _setp(t: Translator, i: Instruction) -> None:
    how, combine = i.mods[0], next((m for m in i.mods if m in ("and", "or", "xor")), None)
    (dtype,) = t.types(how, "and", "or", "xor", "ftz")
    a, b = _floats(t, i, i.operands[1:3], dtype) if dtype[0] == "f" else (t.get(o, dtype) for o in i.operands[1:3])
    result = _comparison(a, b, how, dtype)
    first, _, second = i.operands[0].partition("|")
    both = [(first, result)] + ([(second, f"~{result}")] if second else [])
    for register, value in both:
        if combine:
            value = f"({value} {dict(zip(('and', 'or', 'xor'), '&|^'))[combine]} {t.get(i.operands[3], '?')})"
        t.put(register, value, "?")


def _set(t: Translator, i: Instruction) -> None:
    how = i.mods[0]
    result, dtype = t.types(how, "ftz")
    a, b = _floats(t, i, i.operands[1:3], dtype) if dtype[0] == "f" else (t.get(o, dtype) for o in i.operands[1:3])
    ones = {"f": "np.float32(1)", "i": "np.int32(-1)", "u": "np.uint32(0xffffffff)"}[result[0]]
    t.put(i.operands[0], f"where({_comparison(a, b, how, dtype)}, {ones}, {ones} * 0).astype('{result}')", result)


def _selp(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    a, b = (t.get(o, dtype) for o in i.operands[1:3])
    t.put(i.operands[0], f"where({t.get(i.operands[3], '?')}, {a}, {b})", dtype)


def _slct(t: Translator, i: Instruction) -> None:
    dtype, chooser = t.types("ftz")
    a, b = (t.get(o, dtype) for o in i.operands[1:3])
    t.put(i.operands[0], f"where({t.get(i.operands[3], chooser)} >= 0, {a}, {b})", dtype)


def _copysign(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    t.put(i.operands[0], f"np.copysign({t.get(i.operands[2], dtype)}, {t.get(i.operands[1], dtype)})", dtype)


def _cvt(t: Translator, i: Instruction) -> None:
    kinds = t.types(*ROUNDINGS, *INTEGER_ROUNDINGS, "sat", "ftz", "rna")
    to, source = kinds
    value = t.get(i.operands[1], source)
    mode = next((m for m in i.mods if m in INTEGER_ROUNDINGS), None)
    if "tf32" in i.mods:
        return t.put(i.operands[0], f"numeric.to_tf32({value})", "f4")
    if source[0] == "f" and "ftz" in i.mods:
        value = f"numeric.flush({value})" if source == "f4" else value
    if source[0] == "f" and to[0] != "f":
        if mode is None:
            raise t.error("no rounding in")
        return t.put(i.operands[0], f"numeric.to_integer({value}, {mode!r}, np.dtype('{to}'))", to)
    if to[0] == "f":
        directed = _directed(i)
        if mode:
            value = f"{INTEGER_ROUNDINGS[mode]}({value})"
        if directed and (to != "f4" or source in ("i8", "u8")):
            raise t.error("unsupported rounding")
        if directed:
            value = f"numeric.round_f32({value}.astype('f8'), 0.0, {directed!r})"
        elif to != source:
            value = f"{value}.astype('{to}')"
        return _put_float(t, i, value, to)
    if "sat" in i.mods:
        value = f"numeric.clamp({value}, np.dtype('{to}'))"
    return t.put(i.operands[0], f"{value}.astype('{to}')" if to != source else value, to)


def _call(function: str, *kinds: str) -> Handler:
    """A function of `numeric` on operands of the given types; "" is the instruction's type."""

    def emit(t: Translator, i: Instruction) -> None:
        (dtype,) = t.types()
        values = ", ".join(t.get(o, kind or dtype) for o, kind in zip(i.operands[1:], kinds))
        t.put(i.operands[0], f"numeric.{function}({values})", dtype)

    return emit


def _count(expression: str) -> Handler:
    def emit(t: Translator, i: Instruction) -> None:
        (dtype,) = t.types()
        t.put(i.operands[0], expression.format(t.get(i.operands[1], f"u{dtype[1]}"), bits=8 * int(dtype[1])), "u4")

    return emit


def _lop3(t: Translator, i: Instruction) -> None:
    (dtype,) = t.types()
    values = ", ".join(t.get(o, "u4") for o in i.operands[1:4])
    t.put(i.operands[0], f"numeric.lop3({values}, {int(i.operands[4], 0)})", dtype)


def _shf(t: Translator, i: Instruction) -> None:
    t.types("l", "r", "wrap", "clamp")
    values = ", ".join(t.get(o, "u4") for o in i.operands[1:4])
    t.put(i.operands[0], f"numeric.funnel({values}, {'l' in i.mods}, {'wrap' in i.mods})", "u4")


ARITHMETIC: dict[str, Handler] = {
    **dict.fromkeys(("add", "sub", "mul"), _add_sub_mul),
    **dict.fromkeys(("fma", "mad"), _fma),
    **dict.fromkeys(("and", "or", "xor"), _logic),
    **dict.fromkeys(("shl", "shr"), _shift),
    **dict.fromkeys(("min", "max"), _min_max),
    "div": _div,
    "rem": _rem,
    "abs": _unary("np.abs"),
    "neg": _unary("np.negative"),
    "not": _not,
    "cnot": _cnot,
    "sqrt": _unary("np.sqrt", "rn", "approx"),
    "rcp": _unary("np.reciprocal", "rn", "approx"),
    "rsqrt": _unary("numeric.rsqrt", "approx"),
    "ex2": _unary("numeric.ex2", "approx"),
    "lg2": _unary("numeric.lg2", "approx"),
    "sin": _unary("numeric.sin", "approx"),
    "cos": _unary("numeric.cos", "approx"),
    "tanh": _unary("numeric.tanh", "approx"),
    "setp": _setp,
    "set": _set,
    "selp": _selp,
    "slct": _slct,
    "copysign": _copysign,
    "cvt": _cvt,
    "popc": _count("numeric.count_ones({0})"),
    "clz": _count("np.uint32({bits}) - numeric.bit_length({0})"),
    "brev": _call("reverse_bits", ""),
    "bfe": _call("bit_field", "", "u4", "u4"),
    "bfi": _call("insert_bits", "", "", "u4", "u4"),
    "prmt": _call("prmt", "", "", "u4"),
    "lop3": _lop3,
    "shf": _shf,
}
