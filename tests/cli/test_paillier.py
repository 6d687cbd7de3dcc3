"""secagg paillier: keygen, split, job, encrypt, add, decrypt, verify, and what they refuse."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import tomllib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from secagg.cli import paillier, paillier_files
from secagg.cli.app import app
from secagg_protocols.errors import DecodeError, PlanError
from secagg_protocols.floors import Floors
from secagg_protocols.paillier import (
    KeyShare,
    Layout,
    PrivateKey,
    PublicKey,
    encrypt,
    modulus_proof,
    split,
)
from support.paillier_keys import primes

runner = CliRunner()


def run(*args, code=0, says=""):
    """Run a command; its result, whose exit code is checked and whose output has no traceback."""
    words = [str(arg) for arg in args]
    result = runner.invoke(app, ["paillier", *words], env={"COLUMNS": "120"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    if code:
        assert len(result.stderr.strip().splitlines()) == 1
        assert says in result.stderr, result.stderr
    return result


def private_with_proof(number, *, rounds=False):
    p, q = primes(2048, number)
    return PrivateKey(p, q, proof=modulus_proof.prove(p, q), knowledge_proofs=rounds)


def write(path, data, mode=0o600):
    path.write_bytes(data)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module", autouse=True)
def checked_once():
    """Each proof about a modulus is checked once, and not by each of the commands of a test."""
    with pytest.MonkeyPatch.context() as patch:
        # A refusal is no result, so it is not remembered.
        patch.setattr(modulus_proof, "check", cache(modulus_proof.check))
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Keys, jobs, and three encrypted vectors of each job, made once and copied by tests."""
    home = tmp_path_factory.mktemp("paillier")
    for number, folder in enumerate(("one", "other")):
        key = private_with_proof(number)
        (home / folder).mkdir()
        write(home / folder / "private.key", key.to_bytes())
        write(home / folder / "public.key", key.public.to_bytes())
    run("split", "--key", home / "one" / "private.key", "--holders", 5, "--threshold", 3,
        "--out", home / "dealt")  # fmt: skip
    public = home / "one" / "public.key"
    run("job", "--key", public, "--sites", 3, "--length", 80, "--places", 20, "--limit", 8,
        "--out", home / "job.toml")  # fmt: skip
    run("job", "--key", home / "dealt" / "public.key", "--sites", 3, "--max-weight", 4,
        "--length", 5, "--limit", 10**6, "--out", home / "counts.toml")  # fmt: skip
    rng = np.random.default_rng(5)
    for site in "abc":
        np.save(home / f"{site}.npy", rng.uniform(-8, 8, 80))
        np.save(home / f"{site}-counts.npy", rng.integers(-(10**6), 10**6, 5))
        run("encrypt", home / f"{site}.npy", home / f"{site}.enc", "--key", public,
            "--job", home / "job.toml")  # fmt: skip
        run("encrypt", home / f"{site}-counts.npy", home / f"{site}-counts.enc",
            "--key", home / "dealt" / "public.key", "--job", home / "counts.toml",
            "--weight", "abc".index(site) + 1)  # fmt: skip
    run("add", *(home / f"{site}.enc" for site in "abc"), home / "sum", "--key", public)
    run("add", *(home / f"{site}-counts.enc" for site in "abc"), home / "counts",
        "--key", home / "dealt" / "public.key")  # fmt: skip
    for holder in range(1, 6):
        share = home / "dealt" / f"share-{holder}.key"
        run("decrypt", "--share", share, home / "counts", home / f"part-{holder}")
    return home


@pytest.fixture
def home(made, tmp_path):
    return shutil.copytree(made, tmp_path / "home")


def rounded(path, places=20):
    """The multiples of 2^-places nearest to the numbers in a file: exact in Python's integers."""
    return [round(float(value) * 2**places) for value in np.load(path)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def private(home):
    return home / "one" / "private.key"


def public(home):
    return home / "one" / "public.key"


def dealt(home):
    return home / "dealt" / "public.key"


# The whole flow.


def test_floats_with_one_key(home):
    """The sum is exact over the rounded numbers."""
    shown = run("decrypt", "--key", private(home), home / "sum", home / "sum.npy")
    assert "80 numbers (float64); 3 vectors, weights add up to 3 of at most 3" in shown.stdout
    wanted = [sum(at) for at in zip(*(rounded(home / f"{s}.npy") for s in "abc"), strict=True)]
    found = np.load(home / "sum.npy")
    assert found.dtype == np.float64
    assert [value * 2**20 for value in found] == wanted
    assert stat.S_IMODE((home / "sum.npy").stat().st_mode) == 0o600


@pytest.mark.parametrize("holders", [(1, 2, 3), (5, 1, 4), (1, 2, 3, 4, 5)])
def test_weighted_integers_with_holders(home, holders):
    parts = [home / f"part-{holder}" for holder in holders]
    shown = run(
        "decrypt", "--combine", "--key", dealt(home), *parts, home / "counts", home / "out.npy"
    )
    assert "5 numbers (int64); 3 vectors, weights add up to 6 of at most 12" in shown.stdout
    a, b, c = (np.load(home / f"{site}-counts.npy").tolist() for site in "abc")
    wanted = [x + 2 * y + 3 * z for x, y, z in zip(a, b, c, strict=True)]
    found = np.load(home / "out.npy")
    assert found.dtype == np.int64
    assert found.tolist() == wanted


def test_a_sum_is_the_same_in_any_order_and_in_steps(home):
    run("add", *(home / f"{s}.enc" for s in "cab"), home / "again", "--key", public(home))
    run("add", home / "a.enc", home / "b.enc", home / "ab", "--key", public(home))
    run("add", home / "ab", home / "c.enc", home / "steps", "--key", public(home))
    assert (home / "again").read_bytes() == (home / "sum").read_bytes()
    assert (home / "steps").read_bytes() == (home / "sum").read_bytes()


def test_a_part_made_again_is_the_same(home):
    run("decrypt", "--share", home / "dealt" / "share-2.key", home / "counts", home / "again",
        "--threads", 2)  # fmt: skip
    assert (home / "again").read_bytes() == (home / "part-2").read_bytes()


def test_the_library_reads_the_files(home):
    """Files are those of the library: a vector made in Python is added like any other."""
    key = PublicKey.from_bytes(public(home).read_bytes())
    assert PrivateKey.from_bytes(private(home).read_bytes()).public == key
    share = KeyShare.from_bytes((home / "dealt" / "share-4.key").read_bytes())
    assert share.public == PublicKey.from_bytes(dealt(home).read_bytes())
    job = paillier_files.read_job(home / "job.toml", key)
    ring = job.precision.encode(np.full(80, -0.5), job.layout)
    vector = encrypt(key, ring, job.layout, context=job.context, places=20)
    write(home / "d.enc", vector.to_bytes())
    run("add", home / "a.enc", home / "d.enc", home / "ad", "--key", public(home))
    run("decrypt", "--key", private(home), home / "ad", home / "ad.npy")
    assert [v * 2**20 for v in np.load(home / "ad.npy")] == [
        value - 2**19 for value in rounded(home / "a.npy")
    ]


# keygen and split.


@pytest.fixture
def known_primes(monkeypatch):
    """keygen without its search, which takes seconds."""

    def generate(bits, *, exponent_bits, knowledge_proofs, progress):
        progress(64)
        found = primes(bits)
        return PrivateKey(*found, exponent_bits=exponent_bits, proof=modulus_proof.prove(*found),
                          knowledge_proofs=knowledge_proofs)  # fmt: skip

    monkeypatch.setattr(paillier, "generate", generate)


def test_keygen_keeps_the_private_key(known_primes, tmp_path):
    shown = run("keygen", "--bits", 2048, "--conservative", "--out", tmp_path / "keys")
    assert files(tmp_path) == ["keys"]
    assert files(tmp_path / "keys") == ["private.key", "public.key"]
    assert stat.S_IMODE((tmp_path / "keys" / "private.key").stat().st_mode) == 0o600
    key = PublicKey.from_bytes((tmp_path / "keys" / "public.key").read_bytes())
    assert key.exponent_bits == 1024
    modulus_proof.check(key.n, key.proof)
    assert not key.knowledge_proofs
    assert "for sums by hand" in shown.stdout
    assert f"id {key.digest.hex()}\n" in shown.stdout
    assert "all compare the id over another channel" in shown.stdout
    assert "floors" not in shown.stdout  # by hand there are none
    for prime in primes(2048):
        assert str(prime) not in shown.output
        assert f"{prime:x}" not in shown.output
    before = (tmp_path / "keys" / "private.key").read_bytes()
    run("keygen", "--out", tmp_path / "keys", code=2, says="exists; it is not overwritten")
    assert (tmp_path / "keys" / "private.key").read_bytes() == before


def test_a_key_for_rounds(known_primes, tmp_path):
    """Sites prove what they encrypt, and pin the key by its id, also where it is split."""
    made = tmp_path / "keys"
    shown = run("keygen", "--rounds", "--bits", 2048, "--out", made)
    key = PublicKey.from_bytes((made / "public.key").read_bytes())
    assert key.knowledge_proofs
    assert PrivateKey.from_bytes((made / "private.key").read_bytes()).public == key
    assert "for rounds, with proofs" in shown.stdout
    assert f'floors file:\npaillier_key = "{key.digest.hex()}"\n' in shown.stdout
    shown = run("split", "--key", made / "private.key", "--holders", 3, "--threshold", 2,
                "--out", tmp_path / "dealt")  # fmt: skip
    dealt_key = PublicKey.from_bytes((tmp_path / "dealt" / "public.key").read_bytes())
    assert dealt_key.knowledge_proofs
    line = next(line for line in shown.stdout.splitlines() if line.startswith("paillier_key"))
    floors = tmp_path / "floors.toml"
    floors.write_text(line)
    assert Floors.load(floors).paillier_key == dealt_key.digest.hex()


def test_a_key_for_rounds_is_refused_by_hand(home):
    """Else what a round protects by proofs could be opened as if it were a file for a sum."""
    private_key = private_with_proof(0, rounds=True)
    split_key, shares = split(private_key, 3, 2)
    made = {
        "private": write(home / "r.key", private_key.to_bytes()),
        "public": write(home / "r.pub", private_key.public.to_bytes()),
        "share": write(home / "r-1.key", shares[0].to_bytes()),
        "dealt": write(home / "r-dealt.pub", split_key.to_bytes()),
    }
    out = home / "out"
    for name, command in {
        "public": ("job", "--sites", 3, "--length", 4, "--limit", 8, "--out", out, "--key"),
        "dealt": ("encrypt", home / "a.npy", out, "--job", home / "job.toml", "--key"),
        "private": ("decrypt", home / "sum", out, "--key"),
        "share": ("decrypt", home / "counts", out, "--share"),
    }.items():
        shown = run(*command, made[name], code=2, says="[key-use]")
        assert f"{made[name]}: a key for rounds" in shown.stderr
        assert "without --rounds" in shown.stderr
        assert not out.exists()
    for command in (
        ("add", home / "a.enc", home / "b.enc", out, "--key", made["public"]),
        ("decrypt", "--combine", "--key", made["dealt"], home / "part-1", home / "counts", out),
        ("verify", home / "sum", "--key", made["public"]),
        ("verify", home / "job.toml", "--key", made["public"]),
        ("verify", home / "part-1", "--sum", home / "counts", "--key", made["dealt"]),
    ):
        run(*command, code=2, says="[key-use]")
        assert not out.exists()
    # The key itself, and a share, are good.
    shown = json.loads(run("verify", made["public"], "--json").stdout)
    assert (shown["use"], shown["id"]) == (
        "rounds, with proofs", private_key.public.digest.hex()
    )  # fmt: skip
    shown = run("verify", made["share"], "--key", made["dealt"]).stdout
    assert f"use rounds, with proofs; id {split_key.digest.hex()}" in shown


def test_keygen_that_fails_leaves_nothing(known_primes, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paillier_files, "sync_folder", broken)
    run("keygen", "--bits", 2048, "--out", tmp_path / "keys", code=2, says="No space left")
    assert files(tmp_path) == []


def test_keygen_needs_a_folder_and_a_length(tmp_path):
    run("keygen", "--out", tmp_path / "none" / "keys", code=2, says="is no folder [output-file]")
    result = runner.invoke(
        app, ["paillier", "keygen", "--bits", "1024", "--out", str(tmp_path / "keys")]
    )
    assert result.exit_code == 2
    assert files(tmp_path) == []


@pytest.mark.slow
def test_keygen_of_2048_bits(tmp_path):
    run("keygen", "--bits", 2048, "--out", tmp_path / "keys")
    key = PublicKey.from_bytes((tmp_path / "keys" / "public.key").read_bytes())
    assert key.bits == 2048
    assert "good; public key" in run("verify", tmp_path / "keys" / "public.key").stdout
    np.save(tmp_path / "x.npy", np.array([1, -2]))
    run("job", "--key", tmp_path / "keys" / "public.key", "--sites", 2, "--length", 2,
        "--limit", 2, "--out", tmp_path / "job.toml")  # fmt: skip
    for name in "ab":
        run("encrypt", tmp_path / "x.npy", tmp_path / name, "--job", tmp_path / "job.toml",
            "--key", tmp_path / "keys" / "public.key")  # fmt: skip
    run("add", tmp_path / "a", tmp_path / "b", tmp_path / "sum",
        "--key", tmp_path / "keys" / "public.key")  # fmt: skip
    run("decrypt", "--key", tmp_path / "keys" / "private.key", tmp_path / "sum",
        tmp_path / "sum.npy")  # fmt: skip
    assert np.load(tmp_path / "sum.npy").tolist() == [2, -4]


def test_split_says_whom_to_trust(home):
    shown = run("split", "--key", private(home), "--holders", 2, "--threshold", 2,
                "--out", home / "two")  # fmt: skip
    assert "whoever ran keygen and split could open everything" in shown.stdout
    assert f"delete {private(home)}" in shown.stdout
    assert files(home / "two") == ["public.key", "share-1.key", "share-2.key"]
    for number in (1, 2):
        share = home / "two" / f"share-{number}.key"
        assert stat.S_IMODE(share.stat().st_mode) == 0o600
        secret = KeyShare.from_bytes(share.read_bytes()).secret
        assert str(secret) not in shown.output
        assert f"{secret:x}" not in shown.output


def test_split_refuses(home):
    args = ("--holders", 3, "--threshold", 2, "--out", home / "new")
    run("split", "--key", private(home), "--holders", 3, "--threshold", 4, "--out", home / "new",
        code=2, says="--threshold 4: of --holders 3")  # fmt: skip
    run(
        "split",
        "--key",
        public(home),
        *args,
        code=2,
        says="not a private key but a public key [key-bytes]",
    )
    private(home).chmod(0o640)
    run("split", "--key", private(home), *args, code=2, says="mode 0640")
    private(home).chmod(0o600)
    run("split", "--key", private(home), "--holders", 3, "--threshold", 2, "--out", home / "one",
        code=2, says="exists")  # fmt: skip
    assert not (home / "new").exists()


# job.


def job(home, *args, code=0, says=""):
    return run("job", "--key", public(home), *args, "--out", home / "new.toml", code=code,
               says=says)  # fmt: skip


def test_jobs_of_equal_numbers_differ(home):
    """Two sums of the same shape have two names, so their vectors cannot be mixed up."""
    args = ("--sites", 3, "--length", 80, "--places", 20, "--limit", 8)
    job(home, *args)
    first, second = (tomllib.loads((home / name).read_text()) for name in ("job.toml", "new.toml"))
    assert first.pop("name") != second.pop("name")
    assert first == second
    run("encrypt", home / "a.npy", home / "new.enc", "--key", public(home),
        "--job", home / "new.toml")  # fmt: skip
    run("add", home / "new.enc", home / "b.enc", home / "mixed", "--key", public(home),
        code=2, says="different sums [context]")  # fmt: skip
    assert not (home / "mixed").exists()


def test_the_layout_of_a_job_is_the_narrowest(home):
    """3 vectors within 8 * 2^20 need 3 * 2^23 < 2^25 and a sign: 26 bits; slots add carry bits."""
    key = PublicKey.from_bytes(public(home).read_bytes())
    found = paillier_files.read_job(home / "job.toml", key)
    assert found.layout == Layout(26, 3, 80, 2048)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--sites", 3, "--length", 4, "--limit", "big"), "--limit big: a number [options]"),
        (("--sites", 3, "--length", 4, "--limit", 0), "[precision]"),
        (("--sites", 3, "--length", 4, "--limit", "nan"), "[precision]"),
        (("--sites", 3, "--length", 4, "--limit", "1e400"), "[precision]"),
        (("--sites", 3, "--length", 4, "--limit", 2**62), "[precision]"),
        (("--sites", 3, "--length", 4, "--limit", 8, "--places", 60), "[precision]"),
        (("--sites", 2**33, "--length", 4, "--limit", 1), "sites: at most 65,536 vectors"),
        (("--sites", 10**38, "--length", 4, "--limit", 1), "sites: at most 65,536 vectors"),
        (
            ("--sites", 2, "--max-weight", 99999999999, "--length", 4, "--limit", 1),
            "sites times max_weight is at most 4,294,967,296",
        ),
        (("--sites", 2, "--length", 2**41, "--limit", 1), "length: an integer from 1"),
    ],
)
def test_jobs_that_cannot_be(home, args, says):
    job(home, *args, code=2, says=says)
    assert not (home / "new.toml").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: "nothing", "not TOML"),
        (lambda text: text.replace("job 1", "job 2"), "no job file of this version"),
        (lambda text: text.replace("sites", "size"), "is missing"),
        (lambda text: text + "more = 1\n", "'more' is unknown"),
        (lambda text: text.replace("sites = 3", "sites = true"), "sites: an integer"),
        (lambda text: text.replace("sites = 3", "sites = 0"), "at least 1"),
        (lambda text: text.replace("length = 80", "length = 0"), "length: "),
        (lambda text: text.replace("limit = 8", 'limit = "8"'), "limit: "),
        (lambda text: text.replace("places = 20", "places = -1"), "places: "),
        (lambda text: text.replace('name = "', 'name = "x'), "name: 32 hexadecimal digits"),
        (lambda text: text.replace("key_bits = 2048", "key_bits = 3072"), "for another key"),
        (lambda text: text + "#" * 70_000, "too large"),
    ],
)
def test_job_files_are_read_strictly(home, change, says):
    path = home / "job.toml"
    path.write_text(change(path.read_text()))
    run("encrypt", home / "a.npy", home / "out", "--key", public(home), "--job", path, code=2,
        says=says)  # fmt: skip
    assert not (home / "out").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sites=st.integers(1, 2**16),
    max_weight=st.integers(1, 2**16),
    length=st.integers(1, 2**40),
    places=st.integers(0, 30),
    limit=st.one_of(st.integers(1, 99), st.floats(1, 99)),
)
def test_a_job_is_read_as_it_was_written(made, sites, max_weight, length, places, limit):
    key = PublicKey.from_bytes(public(made).read_bytes())
    values = {"sites": sites, "max_weight": max_weight, "length": length, "places": places}
    values |= {"limit": limit, "name": "0" * 32, "key": key.digest.hex(), "key_bits": key.bits}
    try:
        written = paillier_files.Job(**values)
    except PlanError:
        # The ring has too few bits; 16 + 16 + 7 + 30 can be needed, and a sign.
        assert (sites * max_weight * round(limit * 2**places)).bit_length() > 63
        return
    (made / "law.toml").write_text(written.dump())
    found = paillier_files.read_job(made / "law.toml", key)
    assert found == written
    assert found.context == written.context
    layout = found.layout
    largest = sites * max_weight * round(limit * 2**places)
    assert 2 ** (layout.bits - 2) <= largest < 2 ** (layout.bits - 1)


# encrypt.


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.full(80, np.nan), "index 0 is NaN or infinity [input-finite]"),
        (np.r_[np.zeros(7), np.inf, np.zeros(72)], "index 7 is NaN or infinity [input-finite]"),
        (np.r_[np.zeros(79), 8.01], "index 79 is beyond the limit [input-range]"),
        (np.zeros(79), "a vector of 80 numbers is needed, not an array of shape (79,)"),
        (np.zeros((2, 40)), "array of shape (2, 40) [input-shape]"),
        (np.zeros(80, complex), "[input-dtype]"),
        (np.zeros(80, bool), "[input-dtype]"),
    ],
)
def test_encrypt_refuses_vectors(home, array, says):
    np.save(home / "bad.npy", array)
    shown = run("encrypt", home / "bad.npy", home / "out", "--key", public(home),
                "--job", home / "job.toml", code=2, says=says)  # fmt: skip
    assert "bad.npy: " in shown.stderr
    assert "8.01" not in shown.output
    assert not (home / "out").exists()


def test_encrypt_refuses_what_is_no_array(home):
    args = (home / "out", "--key", public(home), "--job", home / "job.toml")
    np.save(home / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("pickled.npy", "job.toml", "sum"):
        run("encrypt", home / name, *args, code=2, says="no .npy file of numbers [input-dtype]")
    run("encrypt", home / "absent.npy", *args, code=2, says="No such file")
    np.save(home / "floats.npy", np.zeros(5))
    run("encrypt", home / "floats.npy", home / "out", "--key", dealt(home),
        "--job", home / "counts.toml", code=2, says="takes integers (0 places)")  # fmt: skip
    assert not (home / "out").exists()


def test_encrypt_refuses_keys_and_weights(home):
    args = (home / "a.npy", home / "out")
    for_job = ("--job", home / "job.toml")
    run("encrypt", *args, "--key", home / "other" / "public.key", *for_job, code=2,
        says="this job is for another key [key]")  # fmt: skip
    run("encrypt", *args, "--key", private(home), *for_job, code=2, says="not a public key but")
    run("encrypt", *args, "--key", public(home), *for_job, "--weight", 2, code=2,
        says="has weights up to 1 [count]")  # fmt: skip
    run("encrypt", home / "a.npy", home / "sum", "--key", public(home), *for_job, code=2,
        says="exists; it is not overwritten [output-file]")  # fmt: skip
    assert not (home / "out").exists()


def test_a_key_without_its_proof_is_refused(home):
    key = PublicKey.from_bytes(public(home).read_bytes())
    other = PublicKey.from_bytes((home / "other" / "public.key").read_bytes())
    for proof in (b"", other.proof):
        write(public(home), replace(key, proof=proof).to_bytes())
        for command in (
            ("verify", public(home)),
            ("encrypt", home / "a.npy", home / "out", "--key", public(home),
             "--job", home / "job.toml"),
        ):  # fmt: skip
            run(*command, code=5, says="refused: ")


def test_long_work_shows_a_bar_on_terminals(home, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(paillier, "stderr", lambda: Console(file=shown, force_terminal=True))
    result = run("encrypt", home / "a.npy", home / "out", "--key", public(home),
                 "--job", home / "job.toml")  # fmt: skip
    assert "encrypting" in shown.getvalue()
    assert "2/2" in shown.getvalue()
    assert not result.stderr


# add.


def added(home, *names, key=None, code=0, says=""):
    result = run("add", *(home / name for name in names), home / "new",
                 "--key", key or public(home), code=code, says=says)  # fmt: skip
    assert (home / "new").exists() == (code == 0)
    assert files(home) == sorted({*files(home)} - {".new.new"})
    return result


def test_add_refuses_mixtures(home):
    added(home, "a.enc", "a-counts.enc", code=2, says="a-counts.enc: encrypted under another key")
    added(home, "a.enc", "b.enc", key=home / "other" / "public.key", code=2, says="a.enc: ")
    added(home, "a.enc", code=2, says="two encrypted vectors or more")
    added(home, "a.enc", "job.toml", code=2, says="job.toml: ")
    added(home, "a.enc", "absent", code=2, says="No such file")


def vector(home, name, *, layout, context=None, places=20):
    key = PublicKey.from_bytes(public(home).read_bytes())
    if context is None:
        context = paillier_files.read_job(home / "job.toml", key).context
    ring = np.zeros(layout.length, np.uint64)
    made = encrypt(key, ring, layout, context=context, places=places)
    write(home / name, made.to_bytes())


def test_add_refuses_other_layouts_and_precisions(home):
    """Vectors that were made without the job, which keeps all of this together."""
    layout = Layout(26, 3, 80, 2048)
    vector(home, "bits", layout=Layout(27, 3, 80, 2048))
    vector(home, "most", layout=Layout(26, 4, 80, 2048))
    vector(home, "length", layout=Layout(26, 3, 81, 2048))
    vector(home, "places", layout=layout, places=19)
    vector(home, "context", layout=layout, context=b"")
    vector(home, "good", layout=layout)
    for name in ("bits", "most", "length"):
        added(home, "a.enc", name, code=2, says=f"{name}, added to ")
    added(home, "a.enc", "places", code=2, says="their precisions differ [precision]")
    added(home, "a.enc", "context", code=2, says="different sums [context]")
    added(home, "a.enc", "good")


def test_add_refuses_one_file_twice(home):
    shutil.copy(home / "a.enc", home / "copy.enc")
    says = "copy.enc: the same vector as"
    added(home, "a.enc", "b.enc", "copy.enc", code=2, says=says)
    added(home, "a.enc", "a.enc", code=2, says="a.enc: the same vector as")


def test_add_refuses_a_vector_that_is_in_a_sum_already(home):
    run("add", home / "a.enc", home / "b.enc", home / "ab", "--key", public(home))
    for names in (("ab", "a.enc"), ("a.enc", "ab"), ("c.enc", "b.enc", "ab"), ("sum", "ab")):
        shown = added(home, *names, code=2, says="too, and each is added once [parts]")
        assert f"{names[-1]}: a vector in it is in " in shown.stderr


def test_one_weighted_vector_is_no_sum(home):
    """A weight is no number of vectors."""
    out = home / "out"
    share = home / "dealt" / "share-1.key"
    says = "b-counts.enc: one site's vector and no sum; add first [parts]"
    run("decrypt", "--share", share, home / "b-counts.enc", out, code=2, says=says)
    job(home, "--sites", 3, "--max-weight", 2, "--length", 80, "--places", 20, "--limit", 8)
    run("encrypt", home / "a.npy", home / "w.enc", "--key", public(home), "--weight", 2,
        "--job", home / "new.toml")  # fmt: skip
    run("decrypt", "--key", private(home), home / "w.enc", out, code=2, says="add first [parts]")
    assert not out.exists()


def test_encrypt_says_the_digest_that_verify_says(home):
    shown = run("encrypt", home / "a.npy", home / "d.enc", "--key", public(home),
                "--job", home / "job.toml")  # fmt: skip
    digest = hashlib.sha256((home / "d.enc").read_bytes()).hexdigest()
    assert shown.stdout.endswith(f"digest {digest}\n")
    assert f"digest {digest}" in run("verify", home / "d.enc", "--key", public(home)).stdout


def test_split_warns_where_each_holder_opens_alone(home):
    shown = run("split", "--key", private(home), "--holders", 1, "--threshold", 1,
                "--out", home / "alone")  # fmt: skip
    assert "share-1.key, one for each holder" in shown.stdout
    assert "share-1.key to" not in shown.stdout
    assert "each of them opens alone" in shown.stdout
    assert "warning: --threshold 1: every holder can open every vector alone" in shown.stderr


def test_add_refuses_more_weight_than_the_job_has(home):
    run("encrypt", home / "a.npy", home / "d.enc", "--key", public(home),
        "--job", home / "job.toml")  # fmt: skip
    says = "d.enc, added to "
    shown = added(home, "a.enc", "b.enc", "c.enc", "d.enc", code=2, says=says)
    assert "the weights add up to 4, and the layout has room for 3 [count]" in shown.stderr


def test_add_refuses_damaged_vectors(home):
    data = (home / "a.enc").read_bytes()
    write(home / "short", data[:-1])
    write(home / "long", data + b"\0")
    write(home / "zero", data[:-512] + bytes(512))
    write(home / "empty", b"")
    for name in ("short", "long", "empty"):
        added(home, name, "b.enc", code=2, says=f"{name}: ")
    added(home, "b.enc", "zero", code=2, says="is no ciphertext of this key [ciphertext]")


# decrypt.


def test_decrypt_refuses_keys_and_sums(home):
    out = home / "out"
    run("decrypt", "--key", home / "other" / "private.key", home / "sum", out, code=2,
        says="sum: encrypted under another key [key]")  # fmt: skip
    run(
        "decrypt",
        "--key",
        public(home),
        home / "sum",
        out,
        code=2,
        says="not a private key but a public key",
    )
    run("decrypt", "--key", home / "a.npy", home / "sum", out, code=2, says="but something else")
    run("decrypt", "--key", private(home), home / "a.enc", out, code=2, says="add first [parts]")
    run("decrypt", "--key", private(home), home / "sum", home / "a.npy", code=2, says="exists")
    assert not out.exists()


def test_decrypt_needs_one_mode(home):
    share = home / "dealt" / "share-1.key"
    says = "one of --key PRIVATE, --share SHARE, or --combine"
    for options in ((), ("--combine",), ("--key", private(home), "--share", share),
                    ("--share", share, "--combine")):  # fmt: skip
        run("decrypt", *options, home / "sum", home / "out", code=2, says=says)
    run("decrypt", "--key", private(home), home / "sum", code=2, says="[options]")
    run("decrypt", "--key", private(home), home / "a.enc", home / "sum", home / "out", code=2,
        says="[options]")  # fmt: skip


def test_a_sum_with_a_false_weight_is_found(home):
    """A header that claims fewer addends than there are leaves slots out of range."""
    key = PublicKey.from_bytes(public(home).read_bytes())
    layout = Layout(8, 3, 80, 2048)
    ring = np.full(80, 127, np.uint64)
    rows = encrypt(key, ring, layout, weight=3).rows
    parts = (bytes(16), b"x" * 16)
    vector = paillier_files.Ciphertexts(key, rows, layout, count=2, parts=parts)
    write(home / "false", vector.to_bytes())
    run("decrypt", "--key", private(home), home / "false", home / "out", code=5,
        says="[slot-range]")  # fmt: skip
    assert not (home / "out").exists()


def test_shares_of_other_keys_and_for_other_eyes(home):
    share = home / "dealt" / "share-1.key"
    run("decrypt", "--share", share, home / "sum", home / "out", code=2,
        says="encrypted under another key [key]")  # fmt: skip
    run("decrypt", "--share", share, home / "a-counts.enc", home / "out", code=2,
        says="add first [parts]")  # fmt: skip
    run("decrypt", "--share", private(home), home / "counts", home / "out", code=2,
        says="not a share but a private key [key-bytes]")  # fmt: skip
    data = bytearray(share.read_bytes())
    data[-300] ^= 1
    write(share, bytes(data))
    run("decrypt", "--share", share, home / "counts", home / "out", code=2, says="[key-share]")
    share.chmod(0o604)
    run("decrypt", "--share", share, home / "counts", home / "out", code=2, says="mode 0604")
    assert not (home / "out").exists()


def combined(home, *names, code=0, says=""):
    result = run("decrypt", "--combine", "--key", dealt(home), *(home / name for name in names),
                 home / "counts", home / "out.npy", code=code, says=says)  # fmt: skip
    assert (home / "out.npy").exists() == (code == 0)
    return result


def test_combine_needs_enough_holders(home):
    combined(home, "part-1", "part-2", code=2, says="2 good parts, and 3 are needed [combine]")
    combined(home, code=2, says="0 good parts")
    combined(home, "part-1", "part-2", "part-2", code=2, says="a second part of holder 2")
    run("decrypt", "--combine", "--key", public(home), home / "part-1", home / "sum",
        home / "out.npy", code=2, says="the key was not split")  # fmt: skip


def tampered(home, name, where):
    data = bytearray((home / name).read_bytes())
    data[where] ^= 1
    write(home / name, bytes(data))


@pytest.mark.parametrize("where", [-100, 200], ids=["row", "proof"])
def test_a_wrong_part_is_named(home, where):
    tampered(home, "part-2", where)
    shown = combined(home, "part-1", "part-2", "part-3", code=5,
                     says="2 good parts, and 3 are needed")  # fmt: skip
    assert "part-2: the shares of holder 2 are not powers" in shown.stderr
    assert "part-1" not in shown.stderr
    assert "[share-proof]" in shown.stderr


def test_a_wrong_part_is_left_out_where_others_are_enough(home):
    tampered(home, "part-2", -100)
    shown = combined(home, "part-1", "part-2", "part-3", "part-5")
    assert "left out" in shown.stderr
    assert "part-2" in shown.stderr
    a, b, c = (np.load(home / f"{site}-counts.npy").tolist() for site in "abc")
    wanted = [x + 2 * y + 3 * z for x, y, z in zip(a, b, c, strict=True)]
    assert np.load(home / "out.npy").tolist() == wanted


def test_parts_of_something_else(home):
    key = dealt(home)
    run("add", home / "a-counts.enc", home / "b-counts.enc", home / "less", "--key", key)
    run("decrypt", "--share", home / "dealt" / "share-3.key", home / "less", home / "part-less")
    combined(home, "part-1", "part-2", "part-less", code=5,
             says="part-less: a part of another sum")  # fmt: skip
    combined(home, "part-1", "part-2", "counts.toml", code=5, says="no part of an opening")
    data = (home / "part-4").read_bytes()
    for name, changed in (("cut", data[:-8]), ("more", data + bytes(8)), ("none", b"")):
        write(home / name, changed)
        combined(home, "part-1", "part-2", name, code=5, says=f"{name}: ")


def test_a_part_under_the_name_of_another_holder(home):
    """The index is part of what is proved."""
    data = bytearray((home / "part-4").read_bytes())
    size = int.from_bytes(data[5:9], "little")
    assert data[9 + 35 : 9 + 36] == b"\x04"  # After the array's head and 34 bytes of the key.
    data[9 + 35] = 5
    assert size == len(data[9 : 9 + size])
    write(home / "renamed", bytes(data))
    combined(home, "part-1", "part-2", "renamed", code=5, says="the shares of holder 5")
    data[9 + 35] = 6
    write(home / "renamed", bytes(data))
    combined(home, "part-1", "part-2", "renamed", code=5, says="no holder 6")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_parts_are_read_strictly(made, data):
    """Whatever is changed is refused, or read as a part that is written the same way."""
    key = PublicKey.from_bytes(dealt(made).read_bytes())
    total, digest = paillier_files.read_vector(made / "counts", key)
    good = (made / "part-1").read_bytes()
    at = data.draw(st.one_of(st.integers(0, 90), st.integers(0, len(good) - 1)))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    middle = {"flip": bytes([good[at] ^ data.draw(st.integers(1, 255))]), "cut": b"",
              "insert": bytes([data.draw(st.integers(0, 255)), good[at]])}[kind]  # fmt: skip
    changed = good[:at] + middle + good[at + 1 :]
    try:
        part = paillier_files.Part.from_bytes(changed, key, total, digest)
    except DecodeError:
        return
    assert part.to_bytes() == changed
    assert kind == "flip"


# verify.


def test_verify_says_what_a_file_is(home):
    key = PublicKey.from_bytes(dealt(home).read_bytes())
    shown = json.loads(run("verify", dealt(home), "--json").stdout)
    assert shown == {
        "file": str(dealt(home)), "kind": "public key", "bits": 2048, "exponent_bits": 512,
        "holders": 5, "threshold": 3, "use": "sums by hand", "id": key.digest.hex(),
    }  # fmt: skip
    share = home / "dealt" / "share-2.key"
    assert "good; share; holder 2; " in run("verify", share, "--key", dealt(home)).stdout
    shown = run("verify", home / "sum", "--key", public(home), "--job", home / "job.toml")
    assert (
        "good; vector; length 80; places 20; vectors 3; weights 3; most 3; digest " in shown.stdout
    )
    shown = run("verify", home / "part-3", "--key", dealt(home), "--sum", home / "counts")
    assert "good; part; holder 3" in shown.stdout
    job = run("verify", home / "job.toml", "--key", public(home))
    agreed = paillier_files.read_job(home / "job.toml", PublicKey.from_bytes(
        public(home).read_bytes()))  # fmt: skip
    assert f"good; job; digest {agreed.context.hex()}" in job.stdout


def test_verify_refuses(home):
    job(home, "--sites", 3, "--length", 80, "--places", 20, "--limit", 8)
    share = home / "dealt" / "share-2.key"
    shown = run("verify", share, "--key", public(home), code=2, says="not of the key in")
    assert "the public.key that split made" in shown.stderr
    run("verify", dealt(home), "--key", public(home), code=2, says="not of the key in")
    run("verify", home / "sum", code=2, says="is checked with --key PUBLIC")
    run("verify", home / "sum", "--key", dealt(home), code=2, says="under another key [key]")
    run("verify", home / "sum", "--key", public(home), "--job", home / "new.toml", code=2,
        says="not of the job in")  # fmt: skip
    run("verify", home / "part-1", "--key", dealt(home), code=2, says="with --sum SUM")
    run("verify", home / "part-1", "--key", public(home), "--sum", home / "sum", code=5,
        says="made with a share of another key [key]")  # fmt: skip
    run("verify", home / "job.toml", "--key", dealt(home), code=2, says="for another key [key]")
    run("verify", private(home), code=2, says="a private key")
    run("verify", public(home), "--sum", home / "sum", code=2, says="--sum does not go with a")
    run("verify", home / "a.npy", code=2, says="is no file of secagg paillier [frame]")
    tampered(home, "part-1", -100)
    run("verify", home / "part-1", "--key", dealt(home), "--sum", home / "counts", code=5,
        says="refused: ")  # fmt: skip


def test_a_part_is_bound_to_the_dealt_key(home):
    """A second split of the same private key has other shares, and so other parts."""
    split_key, shares = split(PrivateKey.from_bytes(private(home).read_bytes()), 5, 3)
    write(home / "second.key", split_key.to_bytes())
    write(home / "second-1.key", shares[0].to_bytes())
    run("decrypt", "--share", home / "second-1.key", home / "counts", home / "out", code=2,
        says="encrypted under another key [key]")  # fmt: skip
    run("verify", home / "part-1", "--key", home / "second.key", "--sum", home / "counts",
        code=2, says="encrypted under another key [key]")  # fmt: skip
