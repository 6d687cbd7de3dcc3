"""Keystreams against a plain-integer AES and the published vectors."""

import os
import pickle
import sys
import threading
import time
from subprocess import run

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secagg_native import aes_ctr, features, openssl
from secagg_native.aes_ctr import Keystreams, add_keystreams, keystream

LANES = [np.uint16, np.uint32, np.uint64]


@pytest.fixture(params=features.aes_variants())
def variant(request, monkeypatch):
    """Run a test with every variant that this host has, chosen as an environment would."""
    monkeypatch.setattr(features, "aes_variant", lambda: request.param)
    return request.param


# --- the oracle: FIPS 197 in plain integers ---
def xtime(a):
    return (a << 1) ^ (0x11B if a & 0x80 else 0)


def gmul(a, b):
    out = 0
    while b:
        out ^= a if b & 1 else 0
        a, b = xtime(a), b >> 1
    return out


def make_sbox():
    box = []
    for a in range(256):
        b = next((c for c in range(256) if gmul(a, c) == 1), 0)
        rotations = [((b << r) | (b >> (8 - r))) & 255 for r in range(5)]
        s = 0x63
        for r in rotations:
            s ^= r
        box.append(s)
    return box


SBOX = make_sbox()


def round_keys(key):
    words = [list(key[i : i + 4]) for i in range(0, 16, 4)]
    rcon = 1
    for i in range(4, 44):
        w = list(words[-1])
        if i % 4 == 0:
            w = [SBOX[b] for b in w[1:] + w[:1]]
            w[0] ^= rcon
            rcon = xtime(rcon)
        words.append([a ^ b for a, b in zip(words[i - 4], w, strict=True)])
    return bytes(b for w in words for b in w)


def aes128(key, block):
    schedule = round_keys(key)
    state = [a ^ b for a, b in zip(block, schedule, strict=False)]
    for r in range(1, 11):
        state = [SBOX[b] for b in state]
        state = [state[(i + 4 * (i % 4)) % 16] for i in range(16)]
        if r < 10:
            mixed = []
            for c in range(0, 16, 4):
                col = state[c : c + 4]
                for i in range(4):
                    a, b, d, e = (col[(i + k) % 4] for k in range(4))
                    mixed.append(xtime(a) ^ xtime(b) ^ b ^ d ^ e)
            state = mixed
        state = [a ^ b for a, b in zip(state, schedule[16 * r :], strict=False)]
    return bytes(state)


def oracle(key, nonce, start, count, width):
    first, last = start * width, (start + count) * width
    stream = b"".join(
        aes128(key, nonce + c.to_bytes(8, "big")) for c in range(first // 16, -(-last // 16))
    )
    skip = first - first // 16 * 16
    return [
        int.from_bytes(stream[skip + i * width : skip + (i + 1) * width], "little")
        for i in range(count)
    ]


def arrays(pairs, signs):
    k = len(pairs)
    keys = np.frombuffer(b"".join(p[0] for p in pairs), np.uint8).reshape(k, 16)
    nonces = np.frombuffer(b"".join(p[1] for p in pairs), np.uint8).reshape(k, 8)
    return keys, nonces, np.array(signs, np.int8)


# NIST SP 800-38A, F.5.1 (CTR-AES128.Encrypt).
F51_KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
F51_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
F51_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
F51_CIPHER = bytes.fromhex(
    "874d6191b620e3261bef6864990db6ce9806f66b7970fdff8617187bb9fffdff"
    "5ae4df3edbd5d35e5b4f09020db03eab1e031dda2fbe03d1792170a0f3009cee"
)


def test_oracle_fips197_appendix_c1():
    key, block = bytes(range(16)), bytes.fromhex("00112233445566778899aabbccddeeff")
    assert aes128(key, block).hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


def test_sp800_38a_f51_through_openssl():
    assert openssl.ctr_encrypt(F51_KEY, F51_COUNTER, F51_PLAIN) == F51_CIPHER


def test_sp800_38a_f51_through_oracle():
    """The same vector fixes the oracle, and with it every comparison below."""
    counter = int.from_bytes(F51_COUNTER, "big")
    blocks = b"".join(aes128(F51_KEY, (counter + i).to_bytes(16, "big")) for i in range(4))
    assert bytes(a ^ b for a, b in zip(F51_PLAIN, blocks, strict=True)) == F51_CIPHER


@pytest.mark.parametrize("lane", LANES)
def test_body_and_ctr_encrypt_agree(lane, variant):
    key, nonce = bytes(range(16)), bytes(range(8))
    got = keystream(key, nonce, 40_000, lane)
    want = openssl.ctr_encrypt(key, nonce + bytes(8), bytes(got.nbytes))
    assert got.astype(got.dtype.newbyteorder("<")).tobytes() == want


KEEP_FIXTURE = [HealthCheck.function_scoped_fixture]


@settings(max_examples=60, deadline=None, suppress_health_check=KEEP_FIXTURE)
@given(
    key=st.binary(min_size=16, max_size=16),
    nonce=st.binary(min_size=8, max_size=8),
    start=st.integers(0, 200) | st.integers(0, (1 << 63) - 50),
    count=st.integers(0, 40),
    lane=st.sampled_from(LANES),
)
def test_any_start_and_length(variant, key, nonce, start, count, lane):
    want = oracle(key, nonce, start, count, np.dtype(lane).itemsize)
    assert keystream(key, nonce, count, lane, start).tolist() == want


@settings(max_examples=40, deadline=None, suppress_health_check=KEEP_FIXTURE)
@given(data=st.data(), lane=st.sampled_from(LANES), k=st.integers(0, 5))
def test_many_keys_and_signs(variant, data, lane, k):
    pairs = [
        (
            data.draw(st.binary(min_size=16, max_size=16)),
            data.draw(st.binary(min_size=8, max_size=8)),
        )
        for _ in range(k)
    ]
    signs = [data.draw(st.sampled_from([1, -1])) for _ in range(k)]
    start, width = data.draw(st.integers(0, 50)), np.dtype(lane).itemsize
    before = data.draw(st.lists(st.integers(0, (1 << 8 * width) - 1), max_size=20))
    acc = np.array(before, lane)
    add_keystreams(acc, *arrays(pairs, signs), start)
    streams = [oracle(key, nonce, start, len(before), width) for key, nonce in pairs]
    want = [
        (v + sum(s * z[i] for s, z in zip(signs, streams, strict=True))) % (1 << 8 * width)
        for i, v in enumerate(before)
    ]
    assert acc.tolist() == want


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("start", [0, 3])
def test_tiles_batches_threads_and_slices_agree(lane, start, variant, monkeypatch):
    monkeypatch.setattr(openssl, "KEYS_PER_PASS", 3)
    rng = np.random.default_rng(7)
    k, n = 8, 100_003
    keys, nonces = (rng.integers(0, 256, (k, w), dtype=np.uint8) for w in (16, 8))
    signs = rng.choice(np.array([1, -1], np.int8), k)
    want = np.zeros(n, lane)
    for i in range(k):
        stream = openssl.ctr_encrypt(
            keys[i].tobytes(), nonces[i].tobytes() + bytes(8), bytes((start + n) * want.itemsize)
        )
        lanes = np.frombuffer(stream, want.dtype.newbyteorder("<"))[start:]
        want = want + lanes if signs[i] > 0 else want - lanes
    for threads in (1, 2, 3):
        acc = np.zeros(n, lane)
        add_keystreams(acc, keys, nonces, signs, start, threads=threads)
        assert np.array_equal(acc, want)
    acc = np.zeros(n, lane)
    for low in range(0, n, 33_333):
        add_keystreams(acc[low : low + 33_333], keys, nonces, signs, start + low)
    assert np.array_equal(acc, want)


@pytest.mark.parametrize("lane", LANES)
def test_add_then_subtract_is_identity(lane, variant):
    rng = np.random.default_rng(8)
    keys, nonces = (rng.integers(0, 256, (300, w), dtype=np.uint8) for w in (16, 8))
    before = rng.integers(0, np.iinfo(lane).max, 999, dtype=lane, endpoint=True)
    acc = before.copy()
    signs = np.ones(300, np.int8)
    add_keystreams(acc, keys, nonces, signs, 5)
    assert not np.array_equal(acc, before)
    add_keystreams(acc, keys, nonces, -signs, 5)
    assert np.array_equal(acc, before)


def good():
    return {
        "acc": np.zeros(4, np.uint32),
        "keys": np.zeros((2, 16), np.uint8),
        "nonces": np.zeros((2, 8), np.uint8),
        "signs": np.ones(2, np.int8),
        "start": 0,
        "threads": 1,
    }


def read_only():
    a = np.zeros(4, np.uint32)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acc", np.zeros(4, np.int32)),
        ("acc", np.zeros(4, np.uint8)),
        ("acc", np.zeros(4, ">u4")),
        ("acc", np.zeros((2, 2), np.uint32)),
        ("acc", np.zeros(8, np.uint32)[::2]),
        ("acc", np.frombuffer(bytearray(17), np.uint8)[1:].view(np.uint32)),
        ("acc", read_only()),
        ("acc", [0, 0]),
        ("keys", np.zeros((2, 15), np.uint8)),
        ("keys", np.zeros((2, 16), np.int8)),
        ("keys", np.zeros((2, 32), np.uint8)[:, ::2]),
        ("keys", np.zeros(32, np.uint8)),
        ("nonces", np.zeros((1, 8), np.uint8)),
        ("nonces", np.zeros((2, 16), np.uint8)),
        ("nonces", np.zeros((2, 8), np.uint16)),
        ("signs", np.ones(3, np.int8)),
        ("signs", np.ones(2, np.int64)),
        ("signs", np.array([1, 0], np.int8)),
        ("signs", np.array([1, -128], np.int8)),
        ("start", -1),
        ("start", 1.0),
        ("start", (1 << 63) - 3),
        ("threads", 0),
    ],
)
def test_bad_input_is_refused(name, value, variant):
    arguments = good() | {name: value}
    start, threads = arguments.pop("start"), arguments.pop("threads")
    with pytest.raises(ValueError, match=r"acc|keys|nonces|signs|start|threads|positions"):
        add_keystreams(*arguments.values(), start, threads=threads)


def test_the_last_position_is_accepted(variant):
    arguments = list(good().values())[:4]
    arguments[3] = np.array([1, 1], np.int8)
    add_keystreams(*arguments, (1 << 63) - 4)
    stream = oracle(bytes(16), bytes(8), (1 << 63) - 4, 4, 4)
    assert arguments[0].tolist() == [2 * v % 2**32 for v in stream]


def test_sp800_38a_f51_keystream(variant):
    """The published vector through the kernels: its counter starts above 2^63, ours below, so
    its first block is reached by position only in the oracle; here nonce and counter are split."""
    first = int.from_bytes(F51_COUNTER[8:], "big")
    blocks = [
        bytes(a ^ b for a, b in zip(F51_PLAIN, F51_CIPHER, strict=True))[i : i + 16]
        for i in range(0, 64, 16)
    ]
    keys, nonces, signs = arrays([(F51_KEY, F51_COUNTER[:8])], [1])
    if variant == "openssl":
        acc = np.zeros(8, np.uint64)
        openssl.add_keystreams(acc, keys, nonces, signs, 2 * first)
    else:
        from secagg_native.kernels import aes

        schedules = np.zeros((1, 176), np.uint8)
        aes.expand(keys.copy(), nonces.copy(), schedules)
        whole = np.zeros(64, np.uint64)
        getattr(aes, f"add_{variant}")(whole, schedules, 1, np.uint64(first))
        acc = whole[:8]
    assert acc.astype("<u8").tobytes() == b"".join(blocks)


@pytest.mark.parametrize("lane", LANES)
def test_every_edge_of_a_chunk(variant, lane):
    """Lengths and starts around whole blocks and chunks, with neighbours that must not move."""
    width = np.dtype(lane).itemsize
    key, nonce = bytes(range(16)), bytes(range(8))
    long = openssl.ctr_encrypt(key, nonce + bytes(8), bytes(4096))
    stream = np.frombuffer(long, np.dtype(lane).newbyteorder("<"))
    streams = Keystreams(*arrays([(key, nonce)], [1]))
    around = sorted(
        {
            n
            for edge in (0, 16, 128, 256, 512, 1024)
            for n in (edge // width - 1, edge // width, edge // width + 1)
            if n >= 0
        }
    )
    for start in around:
        for count in around:
            acc = np.zeros(count + 2, lane)
            streams.add_to(acc[1 : count + 1], start)
            assert np.array_equal(acc[1 : count + 1], stream[start : start + count])
            assert acc[0] == acc[-1] == 0


def test_key_expansion_against_the_oracle():
    if len(features.aes_variants()) == 1:
        pytest.skip("this host has no AES instructions")
    from secagg_native.kernels import aes

    keys, nonces, _ = arrays([(bytes(range(i, i + 16)), bytes(8)) for i in range(40)], [1] * 40)
    schedules = np.zeros((40, 176), np.uint8)
    aes.expand(keys.copy(), nonces.copy(), schedules)
    for key, schedule in zip(keys, schedules, strict=True):
        assert schedule.tobytes() == round_keys(key.tobytes())


def test_prepared_streams_hide_their_keys():
    streams = Keystreams(*arrays([(b"K" * 16, b"N" * 8)], [1]))
    assert len(streams) == 1
    assert repr(streams) == f"Keystreams(1 keys, {aes_ctr.variant()})"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(streams)


def test_prepared_streams_keep_their_own_keys():
    keys, nonces, signs = (a.copy() for a in arrays([(b"K" * 16, b"N" * 8)], [1]))
    streams = Keystreams(keys, nonces, signs)
    keys[:], nonces[:], signs[:] = 0, 0, -1
    acc = np.zeros(100, np.uint32)
    streams.add_to(acc)
    assert np.array_equal(acc, keystream(b"K" * 16, b"N" * 8, 100, np.uint32))


@pytest.mark.parametrize(
    "arguments",
    [
        (bytes(15), bytes(8), 1, np.uint32),
        (bytes(16), bytes(9), 1, np.uint32),
        (bytes(16), bytes(8), -1, np.uint32),
        (bytes(16), bytes(8), 1, np.uint8),
        (bytes(16), bytes(8), 1, np.float32),
        (bytes(16), bytes(8), 1, np.uint32, -1),
        ("0" * 16, bytes(8), 1, np.uint32),
    ],
)
def test_keystream_refuses(arguments):
    with pytest.raises(ValueError, match=r"key|nonce|count|dtype|start"):
        keystream(*arguments)


def test_no_keys_no_lanes_and_variant():
    acc = np.arange(5, dtype=np.uint16)
    empty = arrays([], [])
    add_keystreams(acc, *empty)
    assert acc.tolist() == [0, 1, 2, 3, 4]
    assert len(keystream(bytes(16), bytes(8), 0, np.uint64)) == 0


def test_the_best_variant_is_chosen():
    assert aes_ctr.variant() in features.aes_variants()
    assert features.aes_variants()[-1] == "openssl"
    if "SECAGG_AES" not in os.environ:
        assert aes_ctr.variant() == features.aes_variants()[0]


def run_python(code, **environment):
    return run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize("name", features.aes_variants())
def test_the_environment_forces_a_variant(name):
    code = (
        "import secagg_native as n; print(n.variant(), n.keystream(bytes(16), bytes(8), 1, 'u4'))"
    )
    done = run_python(code, SECAGG_AES=name)
    first = oracle(bytes(16), bytes(8), 0, 1, 4)[0]
    assert done.stdout.split() == [name, f"[{first}]"], done.stderr


def test_a_wrong_variant_is_refused():
    done = run_python(
        "import secagg_native as n; n.keystream(bytes(16), bytes(8), 1, 'u4')", SECAGG_AES="fast"
    )
    assert done.returncode == 1
    assert "ValueError: SECAGG_AES must be one of vaes512, vaes256, aesni, openssl" in done.stderr
    with pytest.raises(ValueError, match="variant must be one of"):
        Keystreams(*arrays([], []), variant="fast")


def test_a_variant_that_cannot_run_is_refused(monkeypatch):
    monkeypatch.setattr(features, "aes_variants", lambda: ("openssl",))
    with pytest.raises(ValueError, match="which this host cannot run; it can run openssl"):
        Keystreams(*arrays([], []), variant="vaes512")


@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "host"},
        {"NUMBA_CPU_FEATURES": "+sse2"},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
)
def test_no_instruction_is_compiled_that_the_target_lacks(environment):
    """Without the gate LLVM would end the process (a generic target has no AES instructions)."""
    code = (
        "import secagg_native as n; print(n.variant(), n.keystream(bytes(16), bytes(8), 1, 'u4'))"
    )
    done = run_python(code, SECAGG_AES="", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "openssl"


def test_import_is_light():
    code = (
        "import sys, secagg_native\n"
        "print([m for m in ('cryptography', 'numba') if m in sys.modules])"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_avx_the_narrow_variant_is_left():
    code = (
        "import secagg_native as n; print(n.variant(), n.keystream(bytes(16), bytes(8), 1, 'u4'))"
    )
    done = run_python(code, SECAGG_AES="", NUMBA_ENABLE_AVX="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in {"aesni", "openssl"}


def test_without_the_compiler_kernels_say_so():
    done = run_python(
        "import numpy as np, secagg_native as n; n.pack(np.zeros(9, 'u4'), 9, bytearray(11))",
        NUMBA_DISABLE_JIT="1",
    )
    assert "RuntimeError: kernels need numba's compiler: unset NUMBA_DISABLE_JIT" in done.stderr


def test_a_thread_that_does_not_start_leaves_its_work_to_the_others(monkeypatch):
    """The system may give no more threads; nobody may write after the call has returned."""
    starts = []
    start = threading.Thread.start

    def sometimes(thread):
        starts.append(thread)
        if len(starts) > 1:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", sometimes)
    streams = Keystreams(*arrays([(bytes(16), bytes(8))], [1]))
    acc = np.zeros(1 << 20, np.uint32)
    streams.add_to(acc, threads=4)
    assert len(starts) == 2
    assert np.array_equal(acc, keystream(bytes(16), bytes(8), 1 << 20, np.uint32))


def test_an_error_in_a_thread_reaches_the_caller_after_all_have_stopped(monkeypatch):
    streams = Keystreams(*arrays([(bytes(16), bytes(8))], [1]))
    running = []

    def body(self, acc, start):
        running.append(1)
        time.sleep(0.01)
        running.pop()
        if start:
            raise MemoryError

    monkeypatch.setattr(Keystreams, "_add" if streams.variant != "openssl" else "add_to", body)
    with pytest.raises(MemoryError):
        streams.add_to(np.zeros(1 << 20, np.uint32), threads=3)
    assert running == []


def test_a_mapped_file_is_an_accumulator(variant, tmp_path):
    acc = np.memmap(tmp_path / "acc", np.uint32, "w+", shape=(1000,))
    add_keystreams(acc, *arrays([(bytes(16), bytes(8))], [1]))
    assert np.array_equal(acc, keystream(bytes(16), bytes(8), 1000, np.uint32))
