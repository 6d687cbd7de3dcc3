"""Keys of a zero sum: signed adverts, one agreement for each pair of sites, masks that cancel.

Nothing here imports declearn. What travels, and why it is sound, is in
``protocols/specs/zero_sum.md`` and in ADR 0019.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from typing import Final

from secagg_native.aes_ctr import Keystreams
from secagg_protocols.errors import AuthenticationError, DecodeError, MisuseError, PeerError
from secagg_protocols.keys import (
    KEY_SIZE,
    ExchangeKey,
    Identity,
    agree,
    digest_of,
    hkdf,
    pair_info,
    verify,
)
from secagg_protocols.masked_sum.masks import MASK_KEY_SIZE, key_arrays, pair_sign
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME

NONCE_SIZE: Final = 16
DIGEST_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


def query_digest(plan: bytes, nonce: bytes) -> bytes:
    """What the server signs to open a setup: the plan's digest and 16 fresh bytes."""
    return digest_of(b"secagg zero sum query v1", plan, nonce)


def advert_digest(plan: bytes, nonce: bytes, view: bytes, index: int, key: bytes) -> bytes:
    """What a site signs about its key: the setup, all that the server told it, its place."""
    place = index.to_bytes(4, "little")
    return digest_of(b"secagg zero sum advert v1", plan, nonce, view, place, key)


def setup_context(plan: bytes, nonce: bytes, view: bytes, adverts: Sequence[bytes]) -> bytes:
    """The context of all keys of a setup. adverts: key and signature of each site, in order."""
    return digest_of(b"secagg zero sum setup v1", plan, nonce, view, *adverts)


def ready_digest(context: bytes, index: int) -> bytes:
    """What a site signs when it accepted all adverts."""
    return digest_of(b"secagg zero sum ready v1", context, index.to_bytes(4, "little"))


def check_query(plan: Plan, digest: object, nonce: object, signature: object) -> bytes:
    """The nonce of the server's query; :class:`PeerError` where it is not of this plan
    (``zero-plan``) or not signed by the roster's server (``zero-server``)."""
    stated = _bytes(digest, DIGEST_SIZE, SERVER_NAME)
    fresh = _bytes(nonce, NONCE_SIZE, SERVER_NAME)
    signed = _bytes(signature, SIGNATURE_SIZE, SERVER_NAME)
    _check_zero_plan(plan, stated)
    verify(
        plan.roster.server,
        query_digest(plan.digest, fresh),
        signed,
        rule="zero-server",
        signer=SERVER_NAME,
        sender=SERVER_NAME,
    )
    return fresh


def _check_zero_plan(plan: Plan, stated: bytes) -> None:
    if stated != plan.digest:
        raise PeerError(
            "the server is at another plan than this site", rule="zero-plan", sender=SERVER_NAME
        )


def advertise(
    plan: Plan, identity: Identity, nonce: bytes, view: bytes
) -> tuple[ExchangeKey, bytes]:
    """A fresh key and the advert of it, 96 bytes: public key and signature."""
    index = plan.roster.index(identity.name)
    exchange = ExchangeKey(secrets.token_bytes(KEY_SIZE))
    signed = identity.sign(advert_digest(plan.digest, nonce, view, index, exchange.public))
    return exchange, exchange.public + signed


def check_advert(plan: Plan, nonce: bytes, view: bytes, index: int, advert: object) -> bytes:
    """The key of one advert. :class:`DecodeError` (``zero-format``) for other bytes,
    :class:`AuthenticationError` (``zero-advert``) where the site of that place did not sign it
    for this setup and view. Blame falls on whoever passed it on: the server."""
    raw = _bytes(advert, KEY_SIZE + SIGNATURE_SIZE, SERVER_NAME)
    name, public = plan.roster.sites[index]
    digest = advert_digest(plan.digest, nonce, view, index, raw[:KEY_SIZE])
    verify(public, digest, raw[KEY_SIZE:], rule="zero-advert", signer=name, sender=SERVER_NAME)
    return raw[:KEY_SIZE]


def check_adverts(
    plan: Plan, name: str, own: bytes, nonce: bytes, view: bytes, adverts: object
) -> list[bytes]:
    """The keys of all sites, in order. Rules: ``zero-list`` for another number than the roster
    has, ``zero-own`` where this site's own advert is not in its place, ``zero-advert``."""
    if not isinstance(adverts, (list, tuple)) or len(adverts) != plan.clients:
        raise PeerError(
            f"the sum is over all {plan.clients} sites of the roster or over none",
            rule="zero-list",
            sender=SERVER_NAME,
        )
    keys = [check_advert(plan, nonce, view, i, advert) for i, advert in enumerate(adverts)]
    if not hmac.compare_digest(adverts[plan.roster.index(name)], own):
        raise AuthenticationError(
            "this site's own advert was replaced", rule="zero-own", sender=SERVER_NAME
        )
    return keys


def check_ready(plan: Plan, context: bytes, index: int, signature: object) -> None:
    """For the server: :class:`AuthenticationError` (``zero-ready``) unless the site of that place
    accepted the same adverts."""
    name, public = plan.roster.sites[index]
    signed = _bytes(signature, SIGNATURE_SIZE, name)
    digest = ready_digest(context, index)
    verify(public, digest, signed, rule="zero-ready", signer=name, sender=name)


class PairMasks:
    """The masks of one site after one setup. They live in memory only.

    Each call of :meth:`draw` gives one keystream for each other site and replaces the secret that
    it came from: no keystream can be drawn again, and what is in memory later says nothing of
    masks drawn before. Not for several threads.

    exchange: this site's key. keys: of all sites, in the order of the roster.
    :class:`PeerError` (``low-order``) for a key with which anybody would know the secret.
    """

    def __init__(
        self, plan: Plan, name: str, exchange: ExchangeKey, keys: Sequence[bytes], context: bytes
    ) -> None:
        own = plan.roster.index(name)
        self.drawn = 0
        self._process = os.getpid()
        self._secrets: list[bytes] | None = []
        self._signs: list[int] = []
        for peer, (other, _) in enumerate(plan.roster.sites):
            if peer == own:
                continue
            first, second = sorted((own, peer))
            info = pair_info(
                b"secagg zero sum pair v1", context, (keys[first], keys[second]), (first, second)
            )
            shared = agree(exchange, keys[peer], sender=other)
            self._secrets.append(hkdf(shared, info, DIGEST_SIZE))
            self._signs.append(pair_sign(own, peer))

    def draw(self, binding: bytes) -> Keystreams:
        """The keystreams to add to the next value; ``binding`` says what that is, and has to be
        the same at all sites.

        :class:`MisuseError` (``zero-closed``) after :meth:`close`, and (``zero-process``) in a
        copy of the process, whose keystreams would be drawn twice.
        """
        self._check_zero_process()
        info = b"secagg zero sum mask v1" + self.drawn.to_bytes(8, "little") + binding
        made = [hkdf(secret, info, MASK_KEY_SIZE + DIGEST_SIZE) for secret in self._alive()]
        self._secrets = [both[MASK_KEY_SIZE:] for both in made]
        self.drawn += 1
        return Keystreams(*key_arrays([both[:MASK_KEY_SIZE] for both in made], self._signs))

    def close(self) -> None:
        """Forget the secrets; nothing can be masked any more."""
        self._secrets = None

    def _alive(self) -> list[bytes]:
        if self._secrets is None:
            raise MisuseError(
                "the setup is over; declearn has to set up secure aggregation anew",
                rule="zero-closed",
            )
        return self._secrets

    def _check_zero_process(self) -> None:
        if os.getpid() != self._process:
            raise MisuseError(
                "the masks belong to another process; a copy of it would use them twice",
                rule="zero-process",
            )

    def __repr__(self) -> str:
        return f"PairMasks({len(self._signs)} peers, {self.drawn} drawn)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("masks are not pickled")


def _bytes(value: object, size: int, sender: str) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise DecodeError(f"a field is not {size} bytes", rule="zero-format", sender=sender)
    return value


__all__ = [
    "PairMasks",
    "advertise",
    "check_advert",
    "check_adverts",
    "check_query",
    "check_ready",
    "query_digest",
    "ready_digest",
    "setup_context",
]
