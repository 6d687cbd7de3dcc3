"""Fresh processes: nothing is compiled at import, and what is compiled is kept where that is safe.

Folders are made unwritable in ways that hold for root too: a regular file stands where a folder
would be, or the limit on file sizes is zero. Each child first shows that it cannot write there.
"""

import json
import os
import shutil
import stat
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import secagg_native
from secagg_native.kernels import _jit

# A kernel that compiles fast, in a package of its own. The child reports what it saw.
PROBE = """
from ._jit import inlined, kernel

@inlined
def twice(value):
    return value + value

@kernel
def add(x, y):
    for i in range(len(x)):
        x[i] += twice(y[i])

@kernel
def subtract(x, y):
    for i in range(len(x)):
        x[i] -= twice(y[i])
"""

PRELUDE = """
import json, os, resource, sys, warnings
import numpy as np
# numba would import it before it compiles, which takes longer than to compile the probe.
sys.modules["scipy"] = None
warnings.simplefilter("always")

def seen(caught):
    return [str(w.message) for w in caught if w.category.__name__ == "UncachedWarning"]

def run(body, sign, dtype=np.int64):
    x, y = np.arange(5, dtype=dtype), np.ones(5, dtype)
    body(x, y)
    assert x.tolist() == [i + 2 * sign for i in range(5)], x

def hits(*bodies):
    return sum(sum(body.stats.cache_hits.values()) for body in bodies)
"""

BOTH = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from secagg_native.kernels import probe
    run(probe.add, 1)
    run(probe.subtract, -1)
    run(probe.add, 1, np.float32)
print(json.dumps({"hits": hits(probe.add, probe.subtract), "warnings": seen(caught)}))
"""


def install(folder):
    """Copy the package with the probe in it, so that a test may spoil its folders."""
    root = folder / "install"
    source = Path(secagg_native.__file__).parent
    shutil.copytree(source, root / "secagg_native", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "secagg_native" / "kernels" / "probe.py").write_text(PROBE)
    (folder / "home").mkdir()
    return root


@pytest.fixture
def package(tmp_path):
    return install(tmp_path)


@pytest.fixture(scope="module")
def once_filled(tmp_path_factory):
    root = install(tmp_path_factory.mktemp("once"))
    assert child(root) == {"hits": 0, "warnings": []}
    return root


@pytest.fixture
def filled(tmp_path, once_filled):
    """A copy of the package whose probe has been compiled; nothing in the files names a path."""
    shutil.copytree(once_filled.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "install"


def start(package, code, **environment):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA_", "XDG_", "PYTHON"))}
    home = str(package.parent / "home")
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code],
        env={**plain, "PYTHONPATH": str(package), "HOME": home, **environment},
        cwd=package.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child):
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def child(package, code=BOTH, **environment):
    return finish(start(package, code, **environment))


def in_tree(package):
    return package / "secagg_native" / "kernels" / "__pycache__"


def kept(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in {".nbc", ".nbi", ".tmp"})


def spoil(folder):
    """Make a folder impossible to create, read or write, for root as well."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.write_text("a regular file")
    with pytest.raises(OSError):
        (folder / "any").mkdir(parents=True)


# --- imports ---
def test_importing_loads_no_compiler(package):
    found = child(package, "import secagg_native\nprint(json.dumps(sorted(sys.modules)))")
    assert not {"numba", "llvmlite"} & set(found)
    assert kept(package.parent) == []


def test_importing_kernels_compiles_nothing(package):
    names = [p.stem for p in (package / "secagg_native" / "kernels").glob("*.py")]
    names = [name for name in names if not name.startswith("_")]
    assert len(names) >= 2
    code = f"""
import importlib, numba
found = {{}}
for name in {names!r}:
    module = importlib.import_module("secagg_native.kernels." + name)
    for key, value in vars(module).items():
        if isinstance(value, numba.core.registry.CPUDispatcher):
            found[name + "." + key] = len(value.overloads)
print(json.dumps(found))
"""
    found = child(package, code)
    assert {name.partition(".")[0] for name in found} == set(names)
    assert not any(found.values()), found
    assert kept(package.parent) == []


# --- where kernels are kept ---
def test_kernels_are_kept_beside_the_compiled_modules(package):
    assert child(package) == {"hits": 0, "warnings": []}
    assert len(kept(in_tree(package))) == 3
    assert kept(package.parent / "home") == []
    before = [(path, path.stat().st_mtime_ns) for path in kept(in_tree(package))]
    assert child(package) == {"hits": 3, "warnings": []}
    assert [(path, path.stat().st_mtime_ns) for path in kept(in_tree(package))] == before


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HOME", "XDG_CACHE_HOME"])
def test_the_users_cache_folder_is_next(package, variable):
    spoil(in_tree(package))
    place = package.parent / "mine"
    place.mkdir()
    assert child(package, **{variable: str(place)}) == {"hits": 0, "warnings": []}
    found = kept(place)
    assert len(found) == 3
    assert stat.S_IMODE(found[0].parent.stat().st_mode) == 0o700
    assert child(package, **{variable: str(place)}) == {"hits": 3, "warnings": []}


@pytest.mark.slow
def test_the_prefix_of_compiled_modules_is_honoured(package):
    prefix = package.parent / "prefix"
    assert child(package, PYTHONPYCACHEPREFIX=str(prefix)) == {"hits": 0, "warnings": []}
    assert len(kept(prefix)) == 3
    assert not in_tree(package).exists()


@pytest.mark.slow
@pytest.mark.parametrize("given", ["folder", "not/made/yet"])
def test_the_given_folder_is_honoured(package, given):
    place = package.parent / given
    assert child(package, NUMBA_CACHE_DIR=str(place)) == {"hits": 0, "warnings": []}
    assert len(kept(place)) == 3
    assert kept(in_tree(package)) == kept(package.parent / "home") == []
    assert child(package, NUMBA_CACHE_DIR=str(place)) == {"hits": 3, "warnings": []}


def test_a_given_folder_that_fails_is_not_replaced_by_another(package):
    place = package.parent / "given"
    spoil(place)
    found = child(package, NUMBA_CACHE_DIR=str(place))
    assert found["hits"] == 0
    assert len(found["warnings"]) == 1
    assert kept(package.parent) == []


# --- where nothing can be written ---
@pytest.mark.slow
def test_without_a_writable_folder_there_is_one_warning(package):
    spoil(in_tree(package))
    spoil(package.parent / "home")
    for _ in range(2):
        found = child(package)
        assert found["hits"] == 0
        assert len(found["warnings"]) == 1
        assert "NUMBA_CACHE_DIR" in found["warnings"][0]
    assert kept(package.parent) == []


NO_WRITES = """
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    open({probe!r}, "wb", buffering=0).write(b"1")
except OSError:
    pass
else:
    raise SystemExit("the limit does not hold")
"""


def test_a_filled_folder_serves_processes_that_cannot_write(filled):
    code = NO_WRITES.format(probe=str(filled / "written")) + BOTH
    assert child(filled, code) == {"hits": 3, "warnings": []}


def test_a_full_disk_costs_one_warning_and_leaves_nothing_behind(package):
    code = f"""
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from secagg_native.kernels import probe
    run(probe.add, 1)
    early = seen(caught)
    {NO_WRITES.format(probe=str(package / "written")).replace(chr(10), chr(10) + "    ")}
    run(probe.subtract, -1)
    run(probe.subtract, -1, np.float32)
    late = seen(caught)
print(json.dumps([early, late]))
"""
    early, late = child(package, code)
    assert early == []
    assert len(late) == 1
    assert [path.suffix for path in kept(package.parent)] == [".nbc"]


def test_a_folder_that_disappears_costs_one_warning(package):
    place = package.parent / "given"
    code = f"""
import shutil
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from secagg_native.kernels import probe
    run(probe.add, 1)
    shutil.rmtree({str(place)!r})
    open({str(place)!r}, "w").close()
    run(probe.add, 1, np.float32)
    run(probe.subtract, -1)
print(json.dumps(seen(caught)))
"""
    assert len(child(package, code, NUMBA_CACHE_DIR=str(place))) == 1


# --- several processes, several releases ---
@pytest.mark.slow
def test_two_processes_may_fill_an_empty_folder_at_once(package):
    code = (
        """
from secagg_native.kernels import probe
print("ready", flush=True)
sys.stdin.readline()
"""
        + BOTH
    )
    place = str(package.parent / "given")
    children = [start(package, code, NUMBA_CACHE_DIR=place) for _ in range(2)]
    for each in children:
        assert each.stdout.readline() == "ready\n"
    for each in children:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in children:
        assert finish(each)["warnings"] == []
    assert [path.suffix for path in kept(Path(place))] == [".nbc"] * 3
    assert child(package, NUMBA_CACHE_DIR=place) == {"hits": 3, "warnings": []}


def test_one_kernel_may_be_loaded_before_another_is_compiled(filled):
    (gone,) = in_tree(filled).glob("probe.subtract.*")
    gone.unlink()
    assert child(filled) == {"hits": 2, "warnings": []}
    assert gone.exists()


def test_a_changed_source_is_compiled_anew_in_silence(filled):
    source = filled / "secagg_native" / "kernels" / "probe.py"
    source.write_text(source.read_text().replace("value + value", "value * 2 + value * 0"))
    assert child(filled) == {"hits": 0, "warnings": []}
    assert len(kept(in_tree(filled))) == 3
    assert child(filled) == {"hits": 3, "warnings": []}


def test_a_warm_start_leaves_the_registries_of_numba_alone(package, once_filled):
    code = BOTH.replace('"hits":', '"loaded": "numba.np.arraymath" in sys.modules, "hits":')
    assert child(package, code)["loaded"]
    import numba

    if numba.version_info[:2] > _jit.LAST_KNOWN_NUMBA:
        pytest.skip("a newer numba: see what loads without registries, raise LAST_KNOWN_NUMBA")
    assert not child(once_filled, code)["loaded"]


UNKNOWN = """
import numba
numba.version_info = (99, 0, 0)
from secagg_native.kernels import _jit
"""


@pytest.mark.slow
def test_an_unknown_release_of_numba_uses_its_own_cache(package):
    place = str(package.parent / "home" / "cache")
    assert child(package, UNKNOWN + BOTH, NUMBA_CACHE_DIR=place) == {"hits": 0, "warnings": []}
    assert {path.suffix for path in kept(Path(place))} == {".nbc", ".nbi"}
    assert child(package, UNKNOWN + BOTH, NUMBA_CACHE_DIR=place) == {"hits": 3, "warnings": []}


@pytest.mark.slow
def test_an_unknown_release_of_numba_runs_uncached(package):
    spoil(in_tree(package))
    spoil(package.parent / "home")
    found = child(package, UNKNOWN + BOTH)
    assert found["hits"] == 0
    assert len(found["warnings"]) == 1


# --- damaged files ---
DAMAGE = """
import importlib, pathlib
from secagg_native.kernels import _jit, probe
run(probe.add, 1)
(path,) = pathlib.Path(probe.add.stats.cache_path).glob("probe.add.*.nbc")
whole = path.read_bytes()
forms = [whole[:n] for n in (0, 1, 31, 32, 64, 100, len(whole) // 2, len(whole) - 1)]
for at in [0, 1, 40, *range(100, len(whole), len(whole) // 9), len(whole) - 40, len(whole) - 1]:
    forms.append(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
forms.append(b"x" * len(whole))
forms.append(whole + b"x")
# The checksum is right here, and what it covers is nothing that could be loaded.
store = probe.add._cache
target = importlib.import_module("numba.core.registry").cpu_target.target_context
key = store._key(next(iter(probe.add.overloads)), target.codegen())
for junk in (b"", b"junk", whole[:200], b"\\x80\\x04N."):
    body = junk + whole[-64:-32]
    forms.append(body + _jit._checksum(key, body))
counts = []
for form in forms:
    path.write_bytes(form)
    _jit._warned = False
    importlib.reload(probe)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(probe.add, 1)
    counts.append([hits(probe.add), seen(caught), path.read_bytes()[-64:-32] == whole[-64:-32]])
importlib.reload(probe)
run(probe.add, 1)
print(json.dumps({"counts": counts, "after": hits(probe.add)}))
"""


@pytest.mark.slow
def test_damaged_files_are_compiled_anew_and_replaced(package):
    found = child(package, DAMAGE)
    assert len(found["counts"]) > 20
    for hits, warned, replaced in found["counts"]:
        assert hits == 0
        assert len(warned) == 1
        assert "damaged" in warned[0]
        assert replaced
    assert found["after"] == 1


@pytest.mark.slow
def test_a_file_of_other_types_is_not_taken_for_these(package):
    """What numba's own index can do after two processes wrote at once: the wrong code."""
    code = """
import pathlib
from secagg_native.kernels import probe
run(probe.add, 1)
folder = pathlib.Path(probe.add.stats.cache_path)
(first,) = folder.glob("probe.add.*.nbc")
run(probe.add, 1, np.float32)
(second,) = set(folder.glob("probe.add.*.nbc")) - {first}
second.write_bytes(first.read_bytes())
print("{}")
"""
    child(package, code)
    found = child(package)
    assert found["hits"] == 1
    assert len(found["warnings"]) == 1


def test_lack_of_memory_and_interrupts_are_not_damage(filled):
    code = """
import numba.core.serialize
from secagg_native.kernels import probe
raised = []
for error in (MemoryError, KeyboardInterrupt):
    def fail(data):
        raise error
    numba.core.serialize.loads = fail
    try:
        run(probe.add, 1)
    except error:
        raised.append(error.__name__)
print(json.dumps(raised))
"""
    assert child(filled, code) == ["MemoryError", "KeyboardInterrupt"]


# --- whom to trust ---
@pytest.mark.slow
def test_a_folder_that_others_can_write_to_is_neither_read_nor_written(package):
    place = package.parent / "given"
    child(package, NUMBA_CACHE_DIR=str(place))
    (folder,) = place.iterdir()
    before = kept(place)
    folder.chmod(0o777)
    found = child(package, NUMBA_CACHE_DIR=str(place))
    assert found["hits"] == 0
    assert len(found["warnings"]) == 1
    assert "others" in found["warnings"][0]
    assert kept(place) == before
    folder.chmod(0o700)
    assert child(package, NUMBA_CACHE_DIR=str(place)) == {"hits": 3, "warnings": []}


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o077])
@pytest.mark.parametrize("given", [False, True])
def test_no_file_can_be_written_by_others_whatever_the_umask(package, umask, given):
    place = package.parent / "home" / "given"
    place.mkdir(mode=0o700)
    environment = {"NUMBA_CACHE_DIR": str(place)} if given else {}
    assert child(package, f"os.umask({umask})\n" + BOTH, **environment)["hits"] == 0
    files = kept(place if given else in_tree(package))
    assert len(files) == 3
    for path in files:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if given else 0o644 & ~umask)


@pytest.mark.parametrize("spoilt", ["group", "others", "link", "owner", "fifo"])
def test_a_file_that_others_could_have_written_is_not_loaded(filled, spoilt):
    for path in kept(in_tree(filled)):
        if spoilt in {"group", "others"}:
            path.chmod(0o664 if spoilt == "group" else 0o646)
        elif spoilt == "link":
            path.rename(path.with_suffix(".real"))
            path.symlink_to(path.with_suffix(".real"))
        elif spoilt == "owner":
            if os.geteuid() != 0:
                pytest.skip("only root can give a file away")
            os.chown(path, 54321, -1)
        else:
            path.unlink()
            os.mkfifo(path, 0o600)
    assert child(filled) == {"hits": 0, "warnings": []}
    # They were replaced by files of our own.
    assert child(filled) == {"hits": 3, "warnings": []}


def test_a_kernel_closes_over_nothing():
    def make(n):
        def body(x):
            return x + n

        return body

    with pytest.raises(TypeError, match="close over"):
        _jit.kernel(make(1))


# --- time ---
MASK = """
import time
begin = time.perf_counter()
import secagg_native, numba
from secagg_native import aes_ctr
if aes_ctr.variant() != "openssl":
    import secagg_native.kernels.aes
generator = np.random.default_rng(1)
keys = generator.integers(0, 256, (100, 16), np.uint8)
nonces = generator.integers(0, 256, (100, 8), np.uint8)
acc = np.zeros(100_000, np.uint32)
middle = time.perf_counter()
aes_ctr.add_keystreams(acc, keys, nonces, np.ones(100, np.int8))
end = time.perf_counter()
assert acc.any()
print(json.dumps([middle - begin, end - middle]))
"""


@pytest.mark.slow
def test_a_fresh_process_masks_within_a_second_of_its_imports(package, record_property):
    """Issue: 100,000 coordinates, 100 keys, warm cache folder, at most one second."""
    cold = child(package, MASK)
    runs = [child(package, MASK) for _ in range(7)]
    imports, rest = (statistics.median(column) for column in zip(*runs, strict=True))
    record_property(
        "histogram",
        f"fresh process, 100,000 x uint32, 100 keys: imports {imports:.2f} s, then {rest:.2f} s "
        f"with a warm cache folder ({cold[1]:.2f} s with an empty one)",
    )
    assert rest <= 1.0
