"""Encrypted vectors against plain integers, and every refusal."""

from __future__ import annotations

import hashlib
import pickle
import struct
from dataclasses import FrozenInstanceError, replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secagg_protocols.errors import DecodeError, MisuseError, PeerError, SecAggError
from secagg_protocols.paillier import PrivateKey, vector
from secagg_protocols.paillier.packing import Layout
from secagg_protocols.paillier.vector import (
    _MOST_HEADER,
    MOST_CONTEXT,
    MOST_PARTS,
    Ciphertexts,
    encrypt,
    open_with,
    signed,
)
from support.paillier_keys import primes, private_key, public_key, short_keys  # noqa: F401

BITS = 1024
LAYOUT = Layout(bits=32, most=10, length=60, key_bits=BITS)  # rows of 28, 28 and 4


def lane_of(bits):
    return next(d for d in (np.uint16, np.uint32, np.uint64) if 8 * np.dtype(d).itemsize >= bits)


def numbers(rows):
    return [int.from_bytes(row.astype("<u8").tobytes(), "little") for row in rows]


def words(values, count):
    data = b"".join(value.to_bytes(8 * count, "little") for value in values)
    return np.frombuffer(data, "<u8").astype(np.uint64).reshape(-1, count)


def decrypted(rows, number=0):
    """Plaintexts of ciphertexts by Paillier's own formula: L(c^lambda) / L(g^lambda) mod n."""
    p, q = primes(BITS, number)
    n = p * q
    order = (p - 1) * (q - 1)
    return [(pow(c, order, n * n) - 1) // n * pow(order, -1, n) % n for c in numbers(rows)]


def ring(seed=1, layout=LAYOUT):
    rng = np.random.default_rng(seed)
    top = 2**layout.bits - 1
    drawn = rng.integers(0, top, layout.length, dtype=np.uint64, endpoint=True)
    return drawn.astype(lane_of(layout.bits))


def fresh(seed=1, **how):
    return encrypt(public_key(), ring(seed), LAYOUT, **how)


@pytest.fixture(scope="module")
def one():
    """One encrypted vector, with a context and a precision."""
    return fresh(context=b"round 7", places=5)


def refused(rule, kind, call, *args, **kwargs):
    """The error of a call that must be refused by ``rule``."""
    with pytest.raises(SecAggError) as caught:
        call(*args, **kwargs)
    assert type(caught.value) is kind
    assert caught.value.rule == rule
    assert caught.value.args[0].count(f"[{rule}]") == 1
    return caught.value


# --- sums ---
@given(st.data())
@settings(max_examples=12, deadline=None)
def test_a_weighted_sum_over_sites_is_that_of_integers(data):
    """Values, weights given in either way, number of sites, width of ring: all by the oracle."""
    bits = data.draw(st.integers(1, 64))
    weights = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    most = sum(weights) + data.draw(st.integers(0, 5))
    layout = Layout(bits, most, data.draw(st.integers(1, 40)), BITS)
    modulus = 2**bits
    element = st.integers(0, modulus - 1) | st.sampled_from([0, modulus // 2, modulus - 1])
    length = st.lists(element, min_size=layout.length, max_size=layout.length)
    vectors = [data.draw(length) for _ in weights]
    encrypted = []
    for values, weight in zip(vectors, weights, strict=True):
        array = np.array(values, lane_of(bits))
        if data.draw(st.booleans()):
            encrypted.append(encrypt(public_key(), array, layout, weight=weight))
        else:
            encrypted.append(encrypt(public_key(), array, layout).scale(weight))
    total = Ciphertexts.sum_of(iter(encrypted))
    assert total.count == sum(weights)
    want = [
        sum(w * v for w, v in zip(weights, column, strict=True)) % modulus
        for column in zip(*vectors, strict=True)
    ]
    opened = open_with(private_key(), total, single=len(weights) == 1)
    assert opened.dtype == np.uint64
    assert opened.tolist() == want
    # And the integers inside, by another program.
    half, step = modulus // 2, layout.slot_bits
    rows = [
        sum((v + half) % modulus * w for v, w in zip(c, weights, strict=True))
        for c in zip(*vectors, strict=True)
    ]
    parts = [rows[at : at + layout.slots] for at in range(0, layout.length, layout.slots)]
    plain = [sum(value << i * step for i, value in enumerate(part)) for part in parts]
    assert decrypted(total.rows) == plain


def test_how_many_addends_were_negative_does_not_show():
    """3 + 0, -2 + 5 and 7 - 4 open to one and the same plaintext."""
    plain = set()
    for first, second in ((3, 0), (-2, 5), (7, -4), (2**31 - 1, 4 - 2**31)):
        pair = [
            encrypt(public_key(), np.full(60, value % 2**32, np.uint32), LAYOUT)
            for value in (first, second)
        ]
        total = pair[0].add(pair[1])
        plain.add(tuple(decrypted(total.rows)))
        assert set(signed(open_with(private_key(), total), 32).tolist()) == {3}
    assert len(plain) == 1


def test_encrypting_goes_in_batches(monkeypatch):
    monkeypatch.setattr(vector, "BATCH", 2)
    done, opened, scaled = [], [], []
    layout = Layout(32, 10, 140, BITS)  # five rows
    one = encrypt(public_key(), ring(3, layout), layout, progress=done.append)
    assert done == [2, 4, 5]
    found = open_with(private_key(), one, single=True, progress=opened.append)
    assert found.tolist() == ring(3, layout).tolist()
    assert opened == [2, 4, 5]
    assert one.scale(2, progress=scaled.append).count == 2
    assert scaled[-1] == 5


def test_two_threads_give_the_same_sum():
    x = ring(4)
    one, other, third = (encrypt(public_key(), x, LAYOUT, threads=2) for _ in range(3))
    total = Ciphertexts.sum_of([one, other.scale(2, threads=2)], threads=2)
    total = total.rerandomise(threads=2).add(third, threads=2)
    want = (4 * x.astype(np.uint64)) % 2**32
    assert np.array_equal(open_with(private_key(), total, threads=2), want)


def test_encryption_is_fresh_and_rerandomising_too(one):
    again = fresh(context=b"round 7", places=5)
    assert not set(numbers(one.rows)) & set(numbers(again.rows))
    new = one.rerandomise()
    assert not set(numbers(one.rows)) & set(numbers(new.rows))
    assert decrypted(new.rows) == decrypted(again.rows) == decrypted(one.rows)
    assert (new.count, new.context, new.places) == (one.count, one.context, one.places)
    assert new.parts == one.parts != again.parts


def test_a_sum_of_one_and_a_product_with_one_change_nothing(one):
    alone = Ciphertexts.sum_of([one])
    assert np.array_equal(alone.rows, one.rows)
    assert np.array_equal(one.scale(1).rows, one.rows)
    assert alone.to_bytes() == one.to_bytes()


def test_a_vector_never_changes(one):
    before = one.rows.copy()
    one.add(named(one, 1))
    one.scale(3)
    assert np.array_equal(one.rows, before)
    with pytest.raises(ValueError, match="read-only"):
        one.rows[0, 0] = 1
    with pytest.raises(FrozenInstanceError):
        one.count = 2
    assert "rows" not in repr(one)
    assert str(one.key.n) not in repr(one)


def test_ring_lanes_may_be_wider_and_strided():
    x = ring(5)
    wide = np.zeros((60, 2), np.uint64)
    wide[:, 0] = x
    made = encrypt(public_key(), wide[:, 0], LAYOUT)
    assert open_with(private_key(), made, single=True).tolist() == x.tolist()


def named(one, number, **changes):
    """The same rows under another name, as if they came from elsewhere."""
    return replace(one, parts=(number.to_bytes(16),), **changes)


# --- which vectors are in a sum ---
def test_a_sum_names_the_vectors_in_it(one):
    """The names, by hashlib alone; weights and fresh rows leave them."""
    two = fresh(2, context=b"round 7", places=5)
    names = sorted(
        hashlib.sha256(b"".join(c.to_bytes(256, "little") for c in numbers(v.rows))).digest()[:16]
        for v in (one, two)
    )
    assert sorted((*one.parts, *two.parts)) == names
    for total in (one.add(two), two.scale(3).add(one.rerandomise())):
        assert total.parts == tuple(names)
        assert Ciphertexts.from_bytes(public_key(), total.to_bytes()).parts == tuple(names)


def test_a_vector_is_added_once(one):
    two, three = named(one, 2), named(one, 3)
    total = one.add(two)
    for again in (one, two, two.scale(2), two.rerandomise(), two.add(three)):
        refused("parts", MisuseError, total.add, again)
        refused("parts", MisuseError, again.add, total)
        refused("parts", MisuseError, Ciphertexts.sum_of, iter([three, one, two, again]))
    assert len(total.add(three).parts) == 3


def test_one_vector_is_opened_only_where_it_is_asked_for(one):
    x = ring()
    for weight in (1, 2):
        alone = fresh(weight=weight)
        for each in (alone, alone.rerandomise(), Ciphertexts.sum_of([alone])):
            error = refused("parts", MisuseError, open_with, private_key(), each)
            assert "one site's vector and no sum; add first" in str(error)
        assert np.array_equal(
            open_with(private_key(), alone, single=True), x.astype(np.uint64) * weight % 2**32
        )
    # A sum with room for one vector is that vector.
    layout = replace(LAYOUT, most=1)
    assert open_with(private_key(), encrypt(public_key(), x, layout)).tolist() == x.tolist()


@pytest.mark.parametrize(
    "parts",
    [
        (bytes(15),),
        (bytes(17),),
        (b"",),
        ("0123456789abcdef",),
        [bytes(16)],
        None,
        (b"b" * 16, b"a" * 16),
        (b"a" * 16, b"a" * 16),
        tuple(bytes([i]) * 16 for i in range(4)),
    ],
)
def test_names_that_cannot_be_are_refused(one, parts):
    """Of another size or type, unsorted, twice, or more than the weights allow (3)."""
    refused("parts", MisuseError, replace, one, count=3, parts=parts)


def test_the_number_of_vectors_is_bounded_and_fits_the_header(one):
    layout = replace(LAYOUT, most=2**32, length=30)
    wide = encrypt(public_key(), ring(1, layout), layout, context=bytes(64), places=1022)
    names = [(i + 1).to_bytes(16) for i in range(MOST_PARTS + 1)]
    full = replace(wide, count=2**32, parts=tuple(names[:-1]))
    data = full.to_bytes()
    assert Ciphertexts.from_bytes(public_key(), data).parts == full.parts
    assert len(data) - full.rows.nbytes - 9 <= _MOST_HEADER
    refused("parts", MisuseError, replace, wide, count=2**32, parts=tuple(names))
    some = replace(wide, count=MOST_PARTS, parts=tuple(names[:-1]))
    refused("parts", MisuseError, some.add, wide)


def test_arguments_of_another_type_are_named(one):
    key, private = public_key(), private_key()
    for says, call in (
        ("key: a PublicKey is needed, not a PrivateKey", lambda: encrypt(private, ring(), LAYOUT)),
        ("key: a PublicKey is needed, not None", lambda: encrypt(None, ring(), LAYOUT)),
        ("layout: a Layout is needed, not None", lambda: encrypt(key, ring(), None)),
        ("private: a PrivateKey is needed, not a PublicKey", lambda: open_with(key, one)),
        ("private: a PrivateKey is needed, not None", lambda: open_with(None, one)),
        ("ciphertexts: a Ciphertexts is needed, not None", lambda: open_with(private, None)),
        ("key: a PublicKey is needed, not a bytes", lambda: Ciphertexts.from_bytes(b"", key)),
        ("layout: a Layout is", lambda: Ciphertexts.from_bytes(key, one.to_bytes(), layout=7)),
        ("vectors: a Ciphertexts is needed, not None", lambda: one.add(None)),
        ("vectors: a Ciphertexts is needed, not None", lambda: Ciphertexts.sum_of([one, None])),
        ("vectors: an Iterable is needed, not None", lambda: Ciphertexts.sum_of(None)),
        ("layout: a Layout is needed, not None", lambda: replace(one, layout=None)),
    ):
        assert says in str(refused("arguments", MisuseError, call))


# --- refusals of sums ---
def test_vectors_that_do_not_belong_together_are_refused(one):
    other_key = encrypt(public_key(BITS, 1), ring(), LAYOUT, context=b"round 7", places=5)
    for rule, other in (
        ("key", other_key),
        ("context", replace(one, context=b"round 8")),
        ("context", replace(one, context=b"")),
        ("precision", replace(one, places=6)),
        ("layout", replace(one, layout=replace(LAYOUT, length=59))),
        ("layout", replace(one, layout=replace(LAYOUT, most=11))),
        ("layout", replace(one, layout=replace(LAYOUT, bits=31, most=20))),
    ):
        refused(rule, MisuseError, one.add, other)
        refused(rule, MisuseError, other.add, one)
        refused(rule, MisuseError, Ciphertexts.sum_of, [one, named(one, 1), other])
    refused("count", MisuseError, Ciphertexts.sum_of, [])


def test_a_sum_that_could_overflow_is_refused_before_it_is_computed(one, monkeypatch):
    six = replace(one, count=6)
    assert six.add(named(one, 4, count=4)).count == 10
    assert replace(one, count=5).scale(2).count == 10
    drawn = []

    def stream():
        for number in range(4):
            drawn.append(4)
            yield named(one, number, count=4)

    refused("count", MisuseError, Ciphertexts.sum_of, stream())
    assert drawn == [4, 4, 4]

    named_five = named(one, 5)

    class Untouched:
        def product(self, start):
            assert start is six.rows
            return self

    monkeypatch.setattr(type(one.key), "squares", Untouched())
    refused("count", MisuseError, six.add, replace_unchecked(named_five, count=5))
    refused("count", MisuseError, six.scale, 2)
    refused("count", MisuseError, one.scale, 11)
    refused("count", MisuseError, one.scale, 2**80)


def replace_unchecked(one, **changes):
    """A copy with other fields, past the checks of construction."""
    copy = object.__new__(Ciphertexts)
    for name in Ciphertexts.__slots__:
        object.__setattr__(copy, name, changes.get(name, getattr(one, name)))
    return copy


@pytest.mark.parametrize("weight", [0, -1, 1.0, True, "2", None, np.float64(2)])
def test_a_weight_is_an_integer_of_at_least_one(one, weight):
    refused("count", MisuseError, one.scale, weight)
    refused("count", MisuseError, fresh, weight=weight)


def test_a_weight_may_be_a_numpy_integer(one):
    assert type(one.scale(np.int8(3)).count) is int
    assert np.array_equal(one.scale(np.int8(3)).rows, one.scale(3).rows)
    refused("count", MisuseError, one.scale, np.int8(11))


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, 1 << 20])
def test_a_number_of_threads_out_of_range_is_refused(one, threads):
    for call in (one.rerandomise, lambda threads: one.add(one, threads=threads)):
        refused("threads", MisuseError, call, threads=threads)
    refused("threads", MisuseError, one.scale, 2, threads=threads)
    refused("threads", MisuseError, fresh, threads=threads)
    refused("threads", MisuseError, open_with, private_key(), one, threads=threads)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("count", {"count": 0}),
        ("count", {"count": 11}),
        ("count", {"count": True}),
        ("context", {"context": bytes(MOST_CONTEXT + 1)}),
        ("context", {"context": "round"}),
        ("context", {"context": bytearray(3)}),
        ("precision", {"places": -1}),
        ("precision", {"places": 1023}),
        ("precision", {"places": 1.0}),
        ("layout", {"layout": replace(LAYOUT, length=56)}),
        ("layout", {"layout": replace(LAYOUT, length=85)}),
        ("layout", {"layout": replace(LAYOUT, key_bits=2048)}),
    ],
)
def test_fields_that_do_not_fit_are_refused(one, rule, changes):
    refused(rule, MisuseError, replace, one, **changes)


@pytest.mark.usefixtures("short_keys")
def test_a_key_whose_ciphertexts_come_with_proofs_is_not_used_by_hand(one, monkeypatch):
    """Else a row out of a signed round could be opened as if somebody had sent it for this sum."""
    proven = replace(public_key(), knowledge_proofs=True)
    monkeypatch.setattr(vector, "BATCH", None)  # it is refused before anything is encrypted
    refused("key-use", MisuseError, encrypt, proven, ring(), LAYOUT)
    refused("key-use", MisuseError, Ciphertexts, proven, one.rows, LAYOUT)
    refused("key-use", MisuseError, replace, one, key=proven)
    # Nobody who sent bytes is at fault, whatever their header says.
    claimed = one.to_bytes().replace(public_key().digest, proven.digest)
    for data in (one.to_bytes(), claimed, b""):
        refused("key-use", MisuseError, Ciphertexts.from_bytes, proven, data, sender="s1")
    holder = PrivateKey(*primes(BITS), knowledge_proofs=True)
    refused("key", MisuseError, open_with, holder, one)
    refused("key", DecodeError, Ciphertexts.from_bytes, public_key(), claimed)


def test_rows_of_another_kind_are_refused(one):
    for rows in (one.rows[:, :31], one.rows.astype(np.int64), one.rows[0], [1], None):
        refused("ciphertext", DecodeError, replace, one, rows=rows)


@pytest.mark.parametrize(
    ("rule", "array"),
    [
        ("input-dtype", np.zeros(60, np.int32)),
        ("input-dtype", np.zeros(60, np.float64)),
        ("input-dtype", np.zeros(60, np.uint8)),
        ("input-dtype", np.zeros(60, np.uint16)),
        ("input-dtype", [0] * 60),
        ("input-shape", np.zeros(59, np.uint32)),
        ("input-shape", np.zeros((60, 1), np.uint32)),
        ("input-range", np.full(60, 2**32, np.uint64)),
    ],
)
def test_a_ring_array_that_does_not_fit_is_refused(rule, array):
    refused(rule, MisuseError, encrypt, public_key(), array, LAYOUT)


def test_what_cannot_be_encrypted_is_refused_first(monkeypatch):
    monkeypatch.setattr(type(public_key()), "encrypt_rows", None)
    refused("count", MisuseError, fresh, weight=11)
    refused("context", MisuseError, fresh, context=bytes(65))
    refused("precision", MisuseError, fresh, places=-1)
    refused("layout", MisuseError, encrypt, public_key(), ring(), replace(LAYOUT, key_bits=2048))


# --- opening ---
def test_another_key_does_not_open(one):
    refused("key", MisuseError, open_with, private_key(BITS, 1), one)


def test_plaintexts_that_no_sum_has_are_refused():
    """A slot above its bound, a bit above the slots, an unused slot, a count that is too low."""
    key, step = public_key(), LAYOUT.slot_bits
    top = 2**32 - 1
    for row, value in ((0, (top + 1) << 3 * step), (1, 1 << 28 * step), (2, 1 << 4 * step)):
        plain = [0, 0, 0]
        plain[row] = value
        rows, _ = key.encrypt_rows(words(plain, key.words))
        made = Ciphertexts(key, rows, LAYOUT)
        error = refused("slot-range", PeerError, open_with, private_key(), made, single=True)
        assert f"row {row} " in str(error)
    full = encrypt(key, np.full(60, 2**31 - 1, np.uint32), LAYOUT)
    assert open_with(private_key(), full, single=True).tolist() == [2**31 - 1] * 60
    doubled = replace(full.scale(2), count=1)
    refused("slot-range", PeerError, open_with, private_key(), doubled, single=True)


def test_the_row_is_counted_from_the_start_of_the_vector(monkeypatch):
    monkeypatch.setattr(vector, "BATCH", 1)
    key = public_key()
    rows, _ = key.encrypt_rows(words([0, 0, 1 << 1000], key.words))
    made = Ciphertexts(key, rows, LAYOUT)
    error = refused("slot-range", PeerError, open_with, private_key(), made, single=True)
    assert "row 2 " in str(error)


# --- bytes ---
def split(data):
    """(prefix, header as a list, rows) of the bytes of a vector."""
    (size,) = struct.unpack_from("<I", data, 5)
    return data[:9], msgspec.msgpack.decode(data[9 : 9 + size]), data[9 + size :]


def joined(header, rows, magic=b"SAPV\x01"):
    raw = header if isinstance(header, bytes) else msgspec.msgpack.encode(header)
    return magic + struct.pack("<I", len(raw)) + raw + rows


def decode(data, **how):
    return Ciphertexts.from_bytes(public_key(), data, sender="clinic", **how)


def bad(rule, data, **how):
    error = refused(rule, DecodeError, decode, data, **how)
    assert error.sender == "clinic"
    assert error.__suppress_context__
    return error


def test_bytes_round_trip(one):
    for each in (one, one.scale(7), fresh(context=bytes(64)), fresh()):
        data = each.to_bytes()
        for kind in (bytes, bytearray, memoryview):
            back = decode(kind(data), layout=LAYOUT)
            assert np.array_equal(back.rows, each.rows)
            assert (back.key, back.layout) == (each.key, each.layout)
            assert (back.count, back.context, back.places) == (
                each.count,
                each.context,
                each.places,
            )
            assert back.to_bytes() == data


@pytest.mark.usefixtures("short_keys")
def test_a_vector_travels_between_processes(one):
    loaded = pickle.loads(pickle.dumps(one.scale(2)))  # noqa: S301 - our own bytes
    assert loaded.to_bytes() == one.scale(2).to_bytes()


def test_bytes_by_hand(one):
    """The format, written with nothing of the package's."""
    prefix, header, rows = split(one.to_bytes())
    assert prefix[:5] == b"SAPV\x01"
    name = hashlib.sha256(rows).digest()[:16]
    assert header == [one.key.digest, 32, 10, 60, 1024, 1, 5, b"round 7", [name]]
    assert rows == b"".join(c.to_bytes(256, "little") for c in numbers(one.rows))
    assert joined(header, rows) == one.to_bytes()


def test_what_was_read_is_not_the_callers_to_change(one):
    data = bytearray(one.to_bytes())
    back = decode(data)
    data[-1] ^= 1
    assert np.array_equal(back.rows, one.rows)


FIELDS = ["key", "bits", "most", "length", "key_bits", "count", "places", "context", "parts"]


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("key", bytes(32), "key"),
        ("key", b"", "key"),
        ("key", "text", "header"),
        ("bits", 0, "layout"),
        ("bits", 65, "layout"),
        ("bits", -1, "layout"),
        ("bits", 32.0, "header"),
        ("bits", True, "header"),
        ("bits", 64, "frame"),
        ("most", 0, "layout"),
        ("most", 2**32 + 1, "layout"),
        ("most", 2**32, "frame"),
        ("length", 0, "layout"),
        ("length", 2**40 + 1, "layout"),
        ("length", 2**40, "frame"),
        ("length", 56, "frame"),
        ("length", 85, "frame"),
        ("key_bits", 2048, "layout"),
        ("key_bits", 1025, "layout"),
        ("key_bits", 2**64 - 1, "layout"),
        ("count", 0, "count"),
        ("count", 11, "count"),
        ("count", -1, "count"),
        ("count", None, "header"),
        ("places", -1, "precision"),
        ("places", 1023, "precision"),
        ("places", "5", "header"),
        ("context", bytes(65), "context"),
        ("context", "round 7", "header"),
        ("parts", [], "parts"),
        ("parts", [bytes(15)], "parts"),
        ("parts", [bytes(16), bytes(16)], "parts"),
        ("parts", ["text"], "header"),
        ("parts", bytes(16), "header"),
    ],
)
def test_a_header_that_is_refused_by_itself(one, field, value, rule):
    _, header, rows = split(one.to_bytes())
    header[FIELDS.index(field)] = value
    bad(rule, joined(header, rows))


def replaced(header, field, value):
    copy = list(header)
    copy[FIELDS.index(field)] = value
    return copy


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("bits", 33, "layout"),
        ("most", 9, "layout"),
        ("length", 61, "layout"),
        ("context", b"round 8", "context"),
        ("places", 4, "precision"),
        ("count", 10, "count"),
    ],
)
def test_a_header_that_fits_the_rows_is_refused_by_the_others(one, field, value, rule):
    """Nothing is authenticated, but what does not agree with one's own vector does not add."""
    _, header, rows = split(one.to_bytes())
    # Under another name: it is no copy.
    header = replaced(header, "parts", [bytes(16)])
    other = decode(joined(replaced(header, field, value), rows))
    refused(rule, MisuseError, one.add, other)
    if rule == "layout":
        bad("layout", other.to_bytes(), layout=LAYOUT)


def test_every_byte_of_prefix_and_header_matters(one):
    """Each change of one byte is refused, or read as another header that writes itself back."""
    data = one.to_bytes()
    head = len(data) - len(split(data)[2])
    read = 0
    for at in range(head):
        for flip in (1, 0x80, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            try:
                back = decode(changed)
            except DecodeError as error:
                assert error.sender == "clinic"
                continue
            read += 1
            assert back.to_bytes() == bytes(changed) != data
    assert 0 < read < head


@given(data=st.binary(max_size=80), keep=st.integers(0, 80))
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_refused_by_a_rule(one, data, keep):
    whole = one.to_bytes()
    for given_bytes in (data, whole[:keep] + data, whole[:keep] + data + whole[keep + len(data) :]):
        try:
            back = decode(given_bytes)
        except DecodeError as error:
            assert error.sender == "clinic"
        else:
            assert back.to_bytes() == given_bytes


def test_lengths_that_do_not_fit_are_refused(one):
    data = one.to_bytes()
    _, header, rows = split(data)
    for short in (b"", data[:8], data[:9], data[:40], data[:-1], data[:-8], data[:-256]):
        bad("frame", short)
    for long in (data + b"\0", data + bytes(8), data + rows[:256], data + rows):
        bad("frame", long)
    bad("frame", joined(header, b""))
    bad("frame", joined(header, rows, magic=b"SAPV\x02"))
    bad("frame", joined(header, rows, magic=b"SAPW\x01"))
    bad("frame", b"SAPV\x01" + struct.pack("<I", 2**32 - 1) + data[9:])
    bad("frame", joined(bytes(_MOST_HEADER + 1), rows))
    bad("frame", "text")
    bad("frame", memoryview(data)[::2])


def test_a_header_of_another_shape_is_refused(one):
    _, header, rows = split(one.to_bytes())
    names = dict(zip(FIELDS, header, strict=True))
    for other in (header[:-1], [*header, 1], names, [], 7, None):
        bad("header", joined(other, rows))
    raw = msgspec.msgpack.encode(header)
    bad("header", joined(raw + b"\0", rows))
    # Ten is 0x0a; as a 16-bit number it is as valid, and not canonical.
    at = raw.index(b"\x20\x0a") + 1
    bad("header", joined(raw[:at] + b"\xcd\x00\x0a" + raw[at + 1 :], rows))


def test_rows_that_are_no_ciphertexts_are_refused_by_index(one):
    n = one.key.n
    p, q = primes(BITS)
    good = numbers(one.rows)
    for row in range(3):
        for value in (0, n, n * n - n, n * n, n * n + 1, 2**2048 - 1, p, q * q, 5 * p * q, p * 77):
            rows = list(good)
            rows[row] = value
            _, header, _ = split(one.to_bytes())
            error = bad("ciphertext", joined(header, words(rows, 32).tobytes()))
            assert f"row {row} " in str(error)
            refused("ciphertext", DecodeError, replace, one, rows=words(rows, 32))


def test_bytes_for_another_key_are_refused(one):
    error = refused("key", DecodeError, Ciphertexts.from_bytes, public_key(BITS, 1), one.to_bytes())
    assert error.sender is None
