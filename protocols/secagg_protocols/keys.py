"""Keys: identities, agreement, derivation, authenticated encryption.

Nothing here is home-made: Ed25519 and XChaCha20-Poly1305 come from libsodium (PyNaCl),
X25519 and HKDF from OpenSSL (``cryptography``). Every derived key has an ``info`` that names
its purpose, its context and its two ends, so no key can serve twice.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import nacl.bindings
import nacl.exceptions
import nacl.signing
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .errors import AuthenticationError, MisuseError, PeerError
from .wire import Buffer

KEY_SIZE: Final = 32
SEED_SIZE: Final = 32
TAG_SIZE: Final = 16
_NONCE_SIZE: Final = 24
_SEAL_MAGIC: Final = b"secagg sealed 1\n"
_IDENTITY_MAGIC: Final = "secagg identity 1"
_SHA256: Final = hashes.SHA256()  # names the hash and holds no state


class Identity:
    """A party's long-term Ed25519 signing key. Its public half is pinned in the roster."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str, seed: bytes) -> None:
        if not isinstance(name, str) or not isinstance(seed, bytes) or len(seed) != SEED_SIZE:
            raise MisuseError(
                f"an identity is a name and a seed of {SEED_SIZE} bytes", rule="identity-file"
            )
        self.name = name
        self._key = nacl.signing.SigningKey(seed)

    @classmethod
    def generate(cls, name: str) -> Identity:
        """A new identity from the operating system's generator."""
        return cls(name, secrets.token_bytes(SEED_SIZE))

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return bytes(self._key.verify_key)

    def sign(self, digest: bytes) -> bytes:
        """Ed25519 signature (64 bytes) of a digest."""
        return self._key.sign(digest).signature

    def derive(self, label: bytes) -> bytes:
        """A 32-byte key of this identity's own for ``label``."""
        return hkdf(bytes(self._key), b"secagg identity v1 " + label, KEY_SIZE)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a new file of mode 0600. An existing file is never overwritten."""
        target = Path(path)
        text = f"{_IDENTITY_MAGIC}\nname {self.name}\nseed {bytes(self._key).hex()}\n"
        try:
            handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise MisuseError(
                f"{target} exists; an identity is never overwritten", rule="identity-file"
            ) from error
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read what :meth:`save` wrote; a file that others may read is refused."""
        target = Path(path)
        try:
            mode = stat.S_IMODE(target.stat().st_mode)
            data = target.read_bytes()
        except OSError as error:
            raise MisuseError(
                f"{target} cannot be read: {error.strerror}", rule="identity-file"
            ) from None
        if mode & 0o077:
            raise MisuseError(
                f"{target} has mode {mode:04o}; only its owner may read it (chmod 600)",
                rule="identity-file",
            )
        try:
            magic, name, seed = data.decode().splitlines()
            raw = bytes.fromhex(seed.removeprefix("seed "))
            if magic != _IDENTITY_MAGIC or not name.startswith("name ") or len(raw) != SEED_SIZE:
                raise ValueError
        except ValueError:
            # The offending bytes may hold the seed, so the cause is not chained.
            raise MisuseError(f"{target} is not an identity file", rule="identity-file") from None
        return cls(name.removeprefix("name "), raw)

    def __repr__(self) -> str:
        return f"Identity(name={self.name!r}, public={self.public.hex()[:16]}...)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("an identity is not pickled; use save() and load()")


def verify(
    public: bytes, digest: bytes, signature: bytes, *, rule: str, signer: str, sender: str
) -> None:
    """Raise :class:`AuthenticationError` unless ``signature`` is ``public``'s on ``digest``.

    ``sender`` is who passed it on, and so who is to blame.
    """
    try:
        nacl.signing.VerifyKey(public).verify(digest, signature)
    except (nacl.exceptions.BadSignatureError, nacl.exceptions.CryptoError, ValueError):
        raise AuthenticationError(
            f"the signature does not belong to {signer} or to this plan, session, round and model",
            rule=rule,
            sender=sender,
        ) from None


def hkdf(secret: bytes, info: bytes, size: int) -> bytes:
    """HKDF-SHA256 (RFC 5869) with an empty salt: ``size`` bytes."""
    return HKDF(_SHA256, size, None, info).derive(secret)


class ExchangeKey:
    """A private X25519 key that was read once, for any number of agreements.

    Reading one computes its public key, which costs as much as an agreement.

    private: 32 bytes; ``ValueError`` for another length.
    """

    __slots__ = ("_key", "public")

    def __init__(self, private: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(private)
        #: The public key, 32 bytes.
        self.public = self._key.public_key().public_bytes_raw()

    def exchange(self, peer: bytes) -> bytes:
        """X25519 (RFC 7748) with a public key; ``ValueError`` where the output is all zero.

        :func:`agree` is the form that names who sent such a key.
        """
        return self._key.exchange(X25519PublicKey.from_public_bytes(peer))

    def __repr__(self) -> str:
        return f"ExchangeKey(public={self.public.hex()[:16]}...)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a private key is not pickled")


def public_key(private: bytes) -> bytes:
    """X25519 public key of a private key, both 32 bytes."""
    return ExchangeKey(private).public


def clamp(private: bytes) -> bytes:
    """The form in which X25519 uses a private key (RFC 7748, section 5).

    Private keys that differ only in the clamped bits have one public key; keys are shared in
    this form, so that a public key stands for one secret.
    """
    scalar = bytearray(private)
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    return bytes(scalar)


def agree(private: bytes | ExchangeKey, peer: bytes, *, sender: str) -> bytes:
    """X25519 shared secret (RFC 7748). The all-zero output of a low-order point is refused:
    with it, anybody knows the secret."""
    try:
        own = private if isinstance(private, ExchangeKey) else ExchangeKey(private)
        shared = own.exchange(peer)
    except ValueError:
        shared = bytes(KEY_SIZE)
    if hmac.compare_digest(shared, bytes(KEY_SIZE)):
        raise PeerError(
            f"the key of {sender} is a point of low order", rule="low-order", sender=sender
        )
    return shared


def pair_info(
    label: bytes, context: bytes, keys: tuple[bytes, bytes], ends: tuple[int, int]
) -> bytes:
    """HKDF info for a key of two parties: label, context, both public keys, ordered pair."""
    return label + context + keys[0] + keys[1] + struct.pack("<II", *ends)


def encrypt_once(key_and_nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """XChaCha20-Poly1305 under a key derived for exactly one plaintext (56 bytes: key, nonce).

    The nonce is derived with the key and never sent: key and nonce are unique per direction
    and round, so a repetition would need a repetition of the whole context.
    """
    key, nonce = key_and_nonce[:KEY_SIZE], key_and_nonce[KEY_SIZE:]
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        plaintext, associated, nonce, key
    )


def decrypt_once(
    key_and_nonce: bytes, ciphertext: bytes, associated: bytes, *, sender: str
) -> bytes:
    """Inverse of :func:`encrypt_once`; :class:`AuthenticationError` for anything else."""
    key, nonce = key_and_nonce[:KEY_SIZE], key_and_nonce[KEY_SIZE:]
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            ciphertext, associated, nonce, key
        )
    except (nacl.exceptions.CryptoError, ValueError):
        raise AuthenticationError(
            f"a share of {sender} does not open", rule="share-opens", sender=sender
        ) from None


#: Size of the key material that :func:`encrypt_once` takes.
ONE_TIME_SIZE: Final = KEY_SIZE + _NONCE_SIZE


def stage_seed(secret: bytes, round_context: bytes, count: int) -> bytes:
    """The ``count``-th seed that a site's stages get in a round, from the site's own seed."""
    info = b"secagg stage seed v1" + round_context + struct.pack("<I", count)
    return hkdf(secret, info, SEED_SIZE)


def seal(data: bytes, identity: Identity) -> bytes:
    """Encrypt a party's dump for storage, under a key that only ``identity`` can derive."""
    nonce = secrets.token_bytes(_NONCE_SIZE)
    body = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(
        data, _SEAL_MAGIC, nonce, identity.derive(b"seal")
    )
    return _SEAL_MAGIC + nonce + body


def unseal(data: bytes, identity: Identity) -> bytes:
    """Inverse of :func:`seal`; :class:`MisuseError` for another identity or changed bytes."""
    start = len(_SEAL_MAGIC)
    nonce, body = data[start : start + _NONCE_SIZE], data[start + _NONCE_SIZE :]
    if not data.startswith(_SEAL_MAGIC) or len(body) < TAG_SIZE:
        raise MisuseError("this is not a sealed dump", rule="seal")
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            body, _SEAL_MAGIC, nonce, identity.derive(b"seal")
        )
    except nacl.exceptions.CryptoError:
        raise MisuseError(
            "the sealed dump was changed or belongs to another identity", rule="seal"
        ) from None


def digest_of(label: bytes, *parts: Buffer) -> bytes:
    """SHA-256 over a label and length-prefixed parts: no two lists of parts collide."""
    return digest_of_pieces(label, *parts)


def digest_of_pieces(
    label: bytes, *parts: Buffer, size: int | None = None, pieces: Iterable[Buffer] = ()
) -> bytes:
    """:func:`digest_of` with one more, last part of ``size`` bytes that comes in ``pieces``.

    ``ValueError`` where they are not ``size`` bytes together.
    """
    state = hashlib.sha256(label)
    for part in parts:
        state.update(struct.pack("<Q", len(part)))
        state.update(part)
    if size is not None:
        state.update(struct.pack("<Q", size))
    left = size or 0
    for piece in pieces:
        state.update(piece)
        left -= len(piece)
    if left:
        raise ValueError("the pieces have another size than was said")
    return state.digest()
