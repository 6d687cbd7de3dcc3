"""What can be told of kernels from their source, and what from their compiled code.

A kernel is one pure body: at most six arguments, no state, no allocation, exact floating point.
Functions that emit LLVM (`intrinsic`) run inside the compiler, so the rules for bodies do not
apply to them.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import secagg
import secagg_native
import secagg_protocols

KERNELS = Path(secagg_native.__file__).parent / "kernels"
SHIPPED = [Path(package.__file__).parent for package in (secagg, secagg_protocols, secagg_native)]
SOURCES = sorted(path for path in KERNELS.glob("*.py") if not path.name.startswith("_"))

MOST_ARGUMENTS = 6

#: All that a body may call besides functions of its own file. Calls on whole arrays are not here.
SCALARS = {
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("intp", "uintp", "float32", "float64", "bool_"),
}
NUMPY = SCALARS | {"floor", "ceil", "rint", "trunc", "sqrt", "abs", "isfinite", "isnan"}
BUILTINS = {"range", "len", "min", "max", "abs", "int", "float", "bool", "zip", "enumerate"}

DISPLAYS = (
    *(ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp),
    *(ast.JoinedStr, ast.Lambda, ast.Starred),
)
STATEMENTS = (
    *(
        ast.Try,
        ast.TryStar,
        ast.Assert,
        ast.Raise,
        ast.With,
        ast.Delete,
        ast.Import,
        ast.ImportFrom,
    ),
    *(ast.Yield, ast.YieldFrom, ast.Await, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
)
#: Flags by which LLVM may change what floating point computes.
INEXACT = {"fast", "contract", "reassoc", "nnan", "ninf", "nsz", "arcp", "afn"}
OUTSIDE = {"numba", "llvmlite", "numpy"}
STANDARD = set(sys.stdlib_module_names)


def decorators(node: ast.FunctionDef) -> set[str]:
    """Names of a function's decorators, called or not: `kernel`, `_jit.kernel`, `kernel()`."""
    found = set()
    for each in node.decorator_list:
        target = each.func if isinstance(each, ast.Call) else each
        found.add(ast.unparse(target).rpartition(".")[2])
    return found


def violations(source: str) -> list[str]:
    """Name every rule that a module of kernels breaks, with its line."""
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    bodies = [node for node in functions if decorators(node) & {"kernel", "inlined"}]
    callable_here = {node.name for node in functions if decorators(node)}
    constants, emitters, states = module_names(tree)
    callable_here |= emitters
    found = [*file_rules(tree)]
    for node in bodies:
        found += argument_rules(node)
        found += body_rules(node, callable_here)
        found += name_rules(node, constants, states, callable_here, {f.name for f in functions})
    nested = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and decorators(node) & {"kernel", "inlined"}
        and node not in tree.body
    ]
    found += [f"{node.lineno}: a kernel is a function of its module" for node in nested]
    return found


def file_rules(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            names = []
        for name in names:
            if name.startswith("secagg") or (name.startswith(".") and name != "._jit"):
                yield f"{node.lineno}: helpers of a kernel are in its own file, not in {name}"
            elif name != "._jit" and name.partition(".")[0] not in OUTSIDE | STANDARD:
                yield f"{node.lineno}: kernels import {name}"
        if isinstance(node, ast.keyword) and node.arg in {"fastmath", "parallel"}:
            yield f"{node.value.lineno}: {node.arg} is not for kernels"
        if isinstance(node, ast.Constant) and node.value in INEXACT and type(node.value) is str:
            yield f"{node.lineno}: the flag {node.value} makes machines disagree"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in {"kernel", "inlined"}:
                yield f"{node.lineno}: {name} takes nothing and stands above a function"
        if isinstance(node, ast.Attribute | ast.Name):
            name = node.attr if isinstance(node, ast.Attribute) else node.id
            if name in {
                "prange",
                "njit",
                "jit",
                "vectorize",
                "guvectorize",
                "stencil",
                "generated_jit",
            }:
                yield f"{node.lineno}: compiled by {name} and not by `kernel`"


def argument_rules(node: ast.FunctionDef) -> Iterator[str]:
    found = node.args
    if found.vararg or found.kwarg or found.defaults or found.kw_defaults or found.kwonlyargs:
        yield f"{node.lineno}: {node.name} has arguments that are not plain"
    count = len(found.posonlyargs) + len(found.args)
    if "kernel" in decorators(node) and count > MOST_ARGUMENTS:
        yield f"{node.lineno}: {node.name} has {count} arguments"


def body_rules(body: ast.FunctionDef, callable_here: set[str]) -> Iterator[str]:
    for node in (each for statement in body.body for each in ast.walk(statement)):
        if isinstance(node, ast.Global | ast.Nonlocal):
            yield f"{node.lineno}: {body.name} declares a global"
        elif isinstance(node, DISPLAYS):
            yield f"{node.lineno}: {body.name} makes a {type(node).__name__}"
        elif isinstance(node, STATEMENTS):
            yield f"{node.lineno}: {body.name} has a {type(node).__name__}"
        elif isinstance(node, ast.Call) and not may_call(node.func, callable_here):
            yield f"{node.lineno}: {body.name} calls {ast.unparse(node.func)}"


def may_call(function: ast.expr, callable_here: set[str]) -> bool:
    if isinstance(function, ast.Name):
        return function.id in BUILTINS or function.id in callable_here
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        return function.value.id == "np" and function.attr in NUMPY
    return False


def name_rules(
    body: ast.FunctionDef,
    constants: set[str],
    states: set[str],
    callable_here: set[str],
    functions: set[str],
) -> Iterator[str]:
    """What a body reads from its module was fixed when it was compiled: constants and functions."""
    arguments = {each.arg for each in (*body.args.posonlyargs, *body.args.args)}
    names = [node for part in body.body for node in ast.walk(part) if isinstance(node, ast.Name)]
    local = arguments | {node.id for node in names if isinstance(node.ctx, ast.Store)}
    for node in names:
        if node.id in local:
            continue
        if node.id in states:
            yield f"{node.lineno}: {body.name} reads {node.id}, which can change"
        elif node.id in functions and node.id not in callable_here:
            yield f"{node.lineno}: {body.name} uses {node.id}, which is not compiled"
        elif node.id not in constants | callable_here | BUILTINS | {"np", "True", "False", "None"}:
            yield f"{node.lineno}: {body.name} reads {node.id}, which this file does not define"


def module_names(tree: ast.Module) -> tuple[set[str], set[str], set[str]]:
    """Split what a module assigns into constants, intrinsics, and names that can change."""
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    direct, makers = intrinsics(functions)
    assigned: list[str] = []
    constants, emitters = set(), set()
    for node in tree.body:
        if isinstance(node, ast.AugAssign):
            assigned += [ast.unparse(node.target)] * 2
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if not isinstance(target, ast.Tuple):
                pairs = [(target, node.value)]
            elif isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            else:
                pairs = [(each, node.value) for each in target.elts]
            for part, value in pairs:
                name = ast.unparse(part)
                assigned.append(name)
                if is_intrinsic(value, direct, makers):
                    emitters.add(name)
                elif is_constant(value, spread=len(pairs) > 1):
                    constants.add(name)
    changing = {name for name in assigned if assigned.count(name) > 1}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            changing |= set(node.names)
    constants, emitters = constants - changing, emitters - changing
    return constants, emitters, set(assigned) - constants - emitters


def is_constant(value: ast.expr, spread: bool = False) -> bool:
    """Tell whether a module-level value is a number, a string or a tuple of such."""
    if isinstance(value, ast.GeneratorExp):
        # Only where it is unpacked at once: a, b = (np.uint64(n) for n in (1, 2)).
        return spread and is_constant(value.elt)
    for node in ast.walk(value):
        if isinstance(node, ast.Call):
            if ast.unparse(node.func) not in {f"np.{each}" for each in SCALARS} | {"int", "float"}:
                return False
        elif isinstance(node, (*DISPLAYS, ast.Await, ast.NamedExpr)):
            return False
    return True


def intrinsics(functions: list[ast.FunctionDef]) -> tuple[set[str], set[str]]:
    """Names of the intrinsics of a file, and of its functions that make some."""
    direct = {node.name for node in functions if "intrinsic" in decorators(node)}
    makers = {
        outer.name
        for outer in functions
        for inner in outer.body
        if isinstance(inner, ast.FunctionDef) and "intrinsic" in decorators(inner)
    }
    return direct, makers


def is_intrinsic(value: ast.expr, direct: set[str], makers: set[str]) -> bool:
    """Tell whether a module-level value is an intrinsic under another name, or one made."""
    if isinstance(value, ast.Name):
        return value.id in direct
    return isinstance(value, ast.Call) and ast.unparse(value.func) in makers


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_kernels_keep_the_rules(path: Path) -> None:
    assert violations(path.read_text()) == []


def test_there_are_kernels() -> None:
    assert len(SOURCES) >= 2
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        kernels = [
            n for n in tree.body if isinstance(n, ast.FunctionDef) and "kernel" in decorators(n)
        ]
        assert kernels, path.name


# --- the rules catch what they are for ---
HEAD = """
import numpy as np
from numba.extending import intrinsic
from ._jit import inlined, kernel
TILE = 16
_ONE = np.uint64(1)
_A, _B = (np.uint64(n) for n in (1, 2))
@inlined
def helper(a):
    return a + _ONE
def plain(a):
    return a
def make(n):
    @intrinsic
    def emitted(typing, a):
        return [n]
    return emitted
made, again = make(3), make(4)
@intrinsic
def emitter(typing, a):
    return [a]
alias: int = emitter
"""

GOOD = """
@kernel
def body(x, y, z):
    n = min(len(x), TILE)
    for i in range(n):
        a = np.float64(x[i])
        while a > 1.0 and i < n:
            a -= np.floor(a)
        x[i] = helper(y[i]) + made(_A) if z else alias(again(a))
    out = x[:n]
    out[:] = _B
"""


def test_a_kernel_as_it_should_be_passes() -> None:
    assert violations(HEAD + GOOD) == []


def planted(statement: str, head: str = "") -> str:
    return HEAD + head + "@kernel\ndef body(x, y):\n    " + statement.replace("\n", "\n    ") + "\n"


BAD = {
    "has 7 arguments": HEAD + "@kernel\ndef body(a, b, c, d, e, f, g):\n    a[0] = b\n",
    "not plain": HEAD + "@kernel\ndef body(a, b=1):\n    a[0] = b\n",
    "not plain ": HEAD + "@kernel\ndef body(*a):\n    return a\n",
    "not plain  ": HEAD + "@inlined\ndef body(a, *, b):\n    return a\n",
    "declares a global": planted("global TILE\nTILE = 1"),
    "calls np.empty": planted("y = np.empty(3)"),
    "calls np.zeros": planted("y = np.zeros(3, np.uint8)"),
    "calls np.ones": planted("y = np.ones(3)"),
    "calls np.array": planted("y = np.array((1, 2))"),
    "calls np.arange": planted("for i in np.arange(3):\n    x[i] = 1"),
    "calls np.empty_like": planted("y = np.empty_like(x)"),
    "calls np.where": planted("x[:] = np.where(x > 1, x, y)"),
    "calls x.copy": planted("y = x.copy()"),
    "calls x.astype": planted("y = x.astype(np.uint8)"),
    "calls x[:3].sum": planted("return x[:3].sum()"),
    "calls np.random.random": planted("x[0] = np.random.random()"),
    "calls list": planted("y = list(x)"),
    "calls print": planted("print(x)"),
    "calls open": planted("open(x)"),
    "makes a List": planted("y = [1, 2]"),
    "makes a Dict": planted("y = {1: 2}"),
    "makes a Set": planted("y = {1, 2}"),
    "makes a ListComp": planted("y = [i for i in range(3)]"),
    "makes a DictComp": planted("y = {i: i for i in range(3)}"),
    "makes a SetComp": planted("y = {i for i in range(3)}"),
    "makes a GeneratorExp": planted("return max(i for i in range(3))"),
    "makes a JoinedStr": planted("y = f'{x}'"),
    "makes a Lambda": planted("y = lambda i: i"),
    "makes a Starred": planted("y = (*x, 1)"),
    "has a Try": planted("try:\n    x[0] = 1\nfinally:\n    x[1] = 1"),
    "has a Assert": planted("assert x[0] == 1"),
    "has a Raise": planted("if x[0]:\n    raise ValueError"),
    "has a With": planted("with y:\n    x[0] = 1"),
    "has a FunctionDef": planted("def inner(a):\n    return a\nx[0] = inner(1)"),
    "has a Import": planted("import numpy\nx[0] = 1"),
    "fastmath is not": HEAD + "@kernel(fastmath=True)\ndef body(x):\n    x[0] = 1\n",
    "parallel is not": HEAD + "@kernel(parallel=True)\ndef body(x):\n    x[0] = 1\n",
    "the flag fast": HEAD + "def emit(b, x):\n    return b.fadd(x, x, flags=('fast',))\n",
    "the flag contract": HEAD + "FLAGS = 'contract'\n",
    "compiled by prange": planted("for i in prange(3):\n    x[i] = 1"),
    "compiled by njit": HEAD + "import numba\n@numba.njit\ndef body(x):\n    x[0] = 1\n",
    "reads STATE, which can": planted("x[0] = STATE[0]", "STATE = [1]\n"),
    "reads TABLE, which can": planted("x[0] = TABLE[0]", "TABLE = np.zeros(3)\n"),
    "reads NAMES, which can": planted("x[0] = NAMES[0]", "NAMES: dict = {0: 1}\n"),
    "reads GROWS, which can": planted("x[0] = GROWS", "GROWS = 1\nGROWS += 1\n"),
    "reads TWICE, which can": planted("x[0] = TWICE", "TWICE = 1\nTWICE = 2\n"),
    "reads LATER, which can": planted(
        "x[0] = LATER", "LATER = 1\ndef change():\n    global LATER\n    LATER = 2\n"
    ),
    "reads LAZY, which can": planted("x[0] = LAZY", "LAZY = (n for n in (1, 2))\n"),
    "reads DATA, which can": planted("x[0] = DATA[0]", "DATA = plain([1])\n"),
    "reads Tables, which can": planted("x[0] = Tables", "Tables = plain(1)\n"),
    "does not define": planted("x[0] = sys", "import sys\n"),
    "uses plain, which": planted("x[0] = plain"),
    "calls plain": planted("x[0] = plain(1)"),
    "calls elsewhere": planted("x[0] = elsewhere(1)"),
    "not in .field": planted("x[0] = 1", "from .field import add\n"),
    "not in ..bitpack": planted("x[0] = 1", "from ..bitpack import pack\n"),
    "not in secagg_native": planted("x[0] = 1", "import secagg_native\n"),
    "kernels import scipy": planted("x[0] = 1", "import scipy.linalg\n"),
    "a function of its module": HEAD + "def outer():\n    @kernel\n    def b(x):\n        x = 1\n",
    "kernel takes nothing": HEAD + "body = kernel(plain)\n",
    "inlined takes nothing": HEAD + "@inlined()\ndef body(x):\n    return x\n",
}  # fmt: skip


@pytest.mark.parametrize("rule", BAD)
def test_a_planted_violation_is_found(rule: str) -> None:
    found = violations(BAD[rule])
    assert any(rule.strip() in each for each in found), found


# --- where the compiler is imported ---
def importers(sources: dict[str, str]) -> set[str]:
    """Names of the modules that import numba or llvmlite anywhere, other than kernels."""
    found = set()
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in {
                "importlib.import_module",
                "import_module",
                "__import__",
            }:
                names = (
                    [ast.literal_eval(node.args[0])]
                    if isinstance(node.args[0], ast.Constant)
                    else []
                )
            if {each.partition(".")[0] for each in names} & {"numba", "llvmlite"}:
                found.add(name)
    return found


def test_only_kernels_import_the_compiler() -> None:
    sources = {}
    for root in SHIPPED:
        for path in root.rglob("*.py"):
            if not path.is_relative_to(KERNELS):
                sources[str(path.relative_to(root.parent))] = path.read_text()
    assert len(sources) > 20
    assert importers(sources) == set()


def test_importers_are_found() -> None:
    planted_sources = {
        "a": "import numba",
        "b": "import os, numba.core as n",
        "c": "def f():\n    from numba.core import config",
        "d": "from llvmlite import binding",
        "e": "import importlib\nimportlib.import_module('numba')",
        "f": "from .numba import x\nimport numpy",
        "g": "# import numba",
    }
    assert importers(planted_sources) == {"a", "b", "c", "d", "e"}


# --- compiled code ---
# Runs the wrappers on every dtype, so that each kernel is compiled, and reports those that were
# not. Kernels that this host cannot run are left out.
WORKOUT = """
import importlib, json, pathlib, sys
import numpy as np
from numba.core.registry import CPUDispatcher
import secagg_native as native
from secagg_native import aes_ctr, features, field, hadamard, quantise, sampler
key, nonce = bytes(16), bytes(8)
lane_dtypes = (np.uint16, np.uint32, np.uint64)
here = [name for name in features.aes_variants() if name != "openssl"]
for name in here:
    one = aes_ctr.Keystreams(np.zeros((1, 16), np.uint8), np.zeros((1, 8), np.uint8),
                             np.ones(1, np.int8), variant=name)
    for dtype in lane_dtypes:
        one.add_to(np.zeros(5000, dtype), 1)
    getattr(importlib.import_module("secagg_native.kernels.aes"), "rounds_" + name)(1, 1)
for dtype in lane_dtypes:
    for bits in (5, 16):
        packed = bytearray(native.packed_size(100, bits))
        native.pack(np.ones(100, dtype), bits, packed)
        native.unpack(packed, bits, np.zeros(100, dtype))
        native.unpack_add(np.zeros(100, dtype), packed, bits)
for real in (np.float32, np.float64):
    x = np.ones(1 << 12, real)
    native.is_finite(x)
    hadamard.rotate(x, key, nonce)
    hadamard.unrotate(x, key, nonce)
    long = np.ones(1 << 21, real)
    hadamard.rotate(long, key, nonce, threads=2)
    hadamard.unrotate(long, key, nonce, threads=2)
    for dtype in (*lane_dtypes, np.int64):
        for mode in ("nearest", "stochastic"):
            quantise.quantise(x, np.zeros(len(x), dtype), scale=1.0, limit=9, key=key,
                              nonce=nonce, start=0, mode=mode)
draws = sampler.Draws(sampler.discrete_gaussian(4).tables, bytes(32))
for dtype in (*lane_dtypes, np.int64):
    draws.write(np.zeros(9, dtype), 0)
    draws.add(np.zeros(9, dtype), 0)
native.dequantise(np.zeros(9, np.int64), np.zeros(9), scale=1.0)
points = np.arange(1, 10, dtype=np.uint64)
shares = field.split(np.ones((2, 3), np.uint64), points)
shares[4] += np.uint64(1)
secret, wrong = field.recover(points, shares, 3)
assert secret.tolist() == [1, 1] and np.flatnonzero(wrong).tolist() == [4]
field.lagrange(points)
field.inv(field.mul(field.add(points, points), field.sub(points, field.add(points, points))))
from secagg_native import slots
for dtype in lane_dtypes:
    rows = np.zeros((2, 3), np.uint64)
    slots.pack(np.ones(20, dtype), 9, 11, 17, rows)
    slots.unpack(rows, 9, 11, 17, 4, np.zeros(20, dtype))
from secagg_native import paillier
from secagg_native.kernels import multipliers
if features.IFMA in features.bigint_variants():
    squares = paillier.Squares(2**512 - 1, variant=features.IFMA)
    rows = paillier.to_words([5], 16)
    assert squares.power(rows, 3).tolist() == paillier.to_words([125], 16).tolist()
    assert squares.multi_power(rows, paillier.to_words([3], 1)) == 125
    running = squares.product(rows)
    running.multiply(rows)
    assert running.value().tolist() == paillier.to_words([25], 16).tolist()
    power = squares.table(5, 7).encrypt(paillier.to_words([65], 2))
    assert power.tolist() == paillier.to_words([5**65], 16).tolist()
    multipliers.spin(np.uint64(1), 1)

missed, compiled = [], 0
for name in sys.argv[1].split():
    module = importlib.import_module("secagg_native.kernels." + name)
    for label, value in vars(module).items():
        if isinstance(value, CPUDispatcher) and not label.startswith("_"):
            compiled += sum(value.stats.cache_misses.values())
            if not value.overloads:
                missed.append(name + "." + label)
unable = [name for name in features.AES_VARIANTS if name not in features.aes_variants()]
if features.IFMA not in features.bigint_variants():
    unable += [each for each in missed if each.startswith(("digits.", "lookup.", "montgomery.",
                                                           "multipliers."))]
missed = [label for label in missed if not label.endswith(tuple(unable or ["nothing"]))]
print(json.dumps([missed, compiled]))
"""

#: What numba calls to get memory, by name in the object code.
ALLOCATES = (b"NRT_Allocate", b"NRT_MemInfo_alloc", b"NRT_MemInfo_new", b"NRT_Reallocate")


def work_out(folder: Path) -> tuple[list[str], int]:
    """Run every kernel in a fresh process; return those not reached, and how many compilations."""
    names = " ".join(path.stem for path in SOURCES)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WORKOUT, names],
        env={**plain, "NUMBA_CACHE_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missed, compiled = json.loads(done.stdout)
    return missed, compiled


@pytest.mark.slow
def test_compiled_kernels_get_no_memory_and_load_in_another_process(tmp_path: Path) -> None:
    missed, compiled = work_out(tmp_path)
    assert missed == [], "kernels that the workout does not reach: extend it"
    files = list(tmp_path.rglob("*.nbc"))
    assert len(files) == compiled > 40
    for path in files:
        assert not [name for name in ALLOCATES if name in path.read_bytes()], path.name
    assert work_out(tmp_path) == ([], 0)


def test_an_allocation_is_seen_in_compiled_code(tmp_path: Path) -> None:
    """The names above are those that numba uses: a sum of two arrays makes a third."""
    (tmp_path / "planted.py").write_text(
        "from secagg_native.kernels._jit import kernel\n"
        "@kernel\ndef add(x, y):\n    x[:] = x + y\n"
        "@kernel\ndef plain(x, y):\n    for i in range(len(x)):\n        x[i] += y[i]\n"
    )
    code = "import sys\nsys.modules['scipy'] = None\nimport numpy as np, planted\n" + "".join(
        f"planted.{name}(np.ones(9), np.ones(9))\n" for name in ("add", "plain")
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
    path = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run(
        [sys.executable, "-c", code],
        env={**plain, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path},
        check=True,
    )
    (add,) = tmp_path.rglob("planted.add.*.nbc")
    (clean,) = tmp_path.rglob("planted.plain.*.nbc")
    assert [name for name in ALLOCATES if name in add.read_bytes()]
    assert not [name for name in ALLOCATES if name in clean.read_bytes()]
