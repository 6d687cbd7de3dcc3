"""A signed roster: one epoch of who takes part, and the form of its history in a file.

Holding one means nothing: ``enrolment.py`` has the rules by which a party accepts it.
Specification: ``protocols/specs/enrolment.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from .errors import AuthenticationError, DecodeError, MisuseError, PlanError
from .journal import MAX_VALUE
from .keys import KEY_SIZE, Identity, digest_of, verify
from .plan_file import _parse, _value, dump_roster
from .roster import MOST_SITES, SERVER_NAME, Roster
from .wire import DIGEST_SIZE, SIGNATURE_SIZE

#: How errors name the owner of the enrolment key.
ENROLMENT: Final = "enrolment"
CHANGES: Final = ("joined", "left", "revoked", "rotated")
#: The predecessor of a first roster.
NOTHING: Final = bytes(DIGEST_SIZE)
#: Most characters of a file with a history.
MOST_TEXT: Final = 1 << 26
_LABEL: Final = b"secagg signed roster v1"

Changes = tuple[tuple[str, str], ...]


def _wrong(message: str, field: str) -> PlanError:
    return PlanError(message, rule="roster", field=field)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRoster:
    """One epoch: a roster, what came before it, and the signature of the enrolment key.

    Holding one means nothing: :meth:`Membership.accept` verifies it. The constructor checks
    types and sizes (:class:`PlanError`, rule ``roster``): encoded, it fits a register of a
    journal (1 MiB: some 20,000 sites).

    roster: who takes part from this epoch on.
    enrolment: the enrolment public key that is said to have signed, 32 bytes.
    previous: digest of the signed roster before this one, 32 zero bytes for the first.
    changes: sorted (kind, name) pairs, kinds ``joined``, ``left``, ``revoked``, ``rotated``;
        a party that holds the roster before verifies them.
    revoked: sorted keys that may never come back: revoked ones, and those rotated away.
    signature: Ed25519 over :attr:`digest`, 64 bytes.
    """

    roster: Roster
    enrolment: bytes
    previous: bytes
    changes: Changes
    revoked: tuple[bytes, ...]
    signature: bytes = field(repr=False)
    #: What is signed and what the next roster names: SHA-256 of everything but the signature.
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.roster, Roster):
            raise _wrong("a Roster", "roster")
        for name, size in (
            ("enrolment", KEY_SIZE),
            ("previous", DIGEST_SIZE),
            ("signature", SIGNATURE_SIZE),
        ):
            value = getattr(self, name)
            if type(value) is not bytes or len(value) != size:
                raise _wrong(f"{size} bytes", name)
        if self.enrolment in self.roster.keys:
            # A server that decides who takes part fills the roster with sites of its own.
            raise _wrong("the enrolment key is nobody's key in the roster", "enrolment")
        object.__setattr__(self, "changes", _words(self.changes))
        object.__setattr__(self, "revoked", _keys(self.revoked))
        encoded = msgspec.msgpack.encode(self.canonical())
        if len(encoded) + 3 + SIGNATURE_SIZE > MAX_VALUE:
            raise _wrong(f"at most {MAX_VALUE} bytes with all its names and keys", "roster")
        object.__setattr__(self, "digest", digest_of(_LABEL, encoded))

    @property
    def epoch(self) -> int:
        """The roster's epoch."""
        return self.roster.epoch

    @classmethod
    def first(cls, roster: Roster, enrolment: Identity) -> SignedRoster:
        """The first signed roster of a chain; its epoch is the one that ``roster`` has."""
        return cls._sign(roster, NOTHING, (), (), enrolment)

    @classmethod
    def _sign(
        cls,
        roster: Roster,
        previous: bytes,
        changes: Changes,
        revoked: Iterable[bytes],
        enrolment: Identity,
    ) -> SignedRoster:
        draft = cls(
            roster=roster,
            enrolment=_owner(enrolment).public,
            previous=previous,
            changes=changes,
            revoked=tuple(sorted(revoked)),
            signature=bytes(SIGNATURE_SIZE),
        )
        return replace(draft, signature=enrolment.sign(draft.digest))

    def change(
        self,
        *,
        enrolment: Identity,
        join: Mapping[str, bytes] | None = None,
        leave: Iterable[str] = (),
        revoke: Iterable[str] = (),
        rotate: Mapping[str, bytes] | None = None,
        server: bytes | None = None,
        holders: Mapping[str, bytes] | None = None,
    ) -> SignedRoster:
        """The next epoch, signed. Nothing is sent: every party gets the result and accepts it.

        join: new sites by name, appended in this order.
        leave: sites or holders that go in good standing; the same key may join again.
        revoke: sites or holders whose key may never come back; the name may, with another key.
        rotate: new keys by name of a site or holder, which keeps its name and place.
        server: the server's new key.
        holders: new holders of decryption shares by name.

        Raises :class:`PlanError` (rule ``roster``, with the field) for a change that makes no
        roster, :class:`MisuseError` (rule ``revoked-key``) for a key that may not come back,
        and :class:`AuthenticationError` where ``self`` is not signed by this enrolment key.
        """
        verify_signature(_owner(enrolment).public, self)
        join, holders = _keyed(join, "join"), _keyed(holders, "holders")
        rotate = _keyed(rotate, "rotate")
        left, revoked = _names(leave, "leave"), _names(revoke, "revoke")
        old = {**dict(self.roster.sites), **dict(self.roster.holders)}
        named: set[str] = set()
        for place, names in (("leave", left), ("revoke", revoked), ("rotate", rotate)):
            for name in names:
                if name == SERVER_NAME:
                    raise _wrong("the server only changes its key (server=)", place)
                if name not in old:
                    raise _wrong(f"{name!r} is no site or holder of the roster", place)
                if name in named:
                    raise _wrong(f"{name!r} is named twice", place)
                named.add(name)
        for place, names in (("join", join), ("holders", holders)):
            for name in names:
                if name in old:
                    raise _wrong(f"{name!r} is in the roster; rotate changes its key", place)
        away = {*left, *revoked}
        roster = Roster(
            sites=(*_renewed(self.roster.sites, rotate, away), *join.items()),
            server=self.roster.server if server is None else server,
            holders=(*_renewed(self.roster.holders, rotate, away), *holders.items()),
            epoch=self.epoch + 1,
        )
        if replace(roster, epoch=self.epoch) == self.roster:
            raise _wrong("nothing changes", "roster")
        ended = {*self.revoked, *(old[name] for name in revoked)}
        ended |= rotated_away(self.roster, roster)
        back = [name for (_, name), key in _places(roster).items() if key in ended]
        if back:
            raise MisuseError(
                f"the key given for {', '.join(back)} was revoked or rotated away and never "
                "comes back; a new key is needed",
                rule="revoked-key",
            )
        changes = changes_between(self.roster, roster, ended)
        return self._sign(roster, self.digest, changes, ended, enrolment)

    def canonical(self) -> list[Any]:
        """Plain values whose msgpack form is what the digest is taken of."""
        return [
            "signed roster",
            1,
            self.enrolment,
            self.previous,
            [list(change) for change in self.changes],
            list(self.revoked),
            self.roster.canonical(),
        ]

    def encode(self) -> bytes:
        """Canonical bytes with the signature, for journals and transports."""
        return msgspec.msgpack.encode([*self.canonical(), self.signature])

    @classmethod
    def decode(cls, data: bytes) -> SignedRoster:
        """Inverse of :meth:`encode`; :class:`DecodeError` (rule ``roster``) for other bytes."""
        try:
            (
                _,
                _,
                enrolment,
                previous,
                changes,
                revoked,
                (_, epoch, sites, server, holders),
                sign,
            ) = msgspec.msgpack.decode(data, type=_Form)
            made = cls(
                roster=Roster(sites=sites, server=server, holders=holders, epoch=epoch),
                enrolment=enrolment,
                previous=previous,
                changes=changes,
                revoked=revoked,
                signature=sign,
            )
            if made.encode() == data:
                return made
        except (msgspec.DecodeError, PlanError, UnicodeError, RecursionError):
            pass
        raise DecodeError(
            "these bytes are no signed roster in its one encoding", rule="roster", sender=ENROLMENT
        )


_Members = tuple[tuple[str, bytes], ...]
_Form = tuple[
    str,
    int,
    bytes,
    bytes,
    tuple[tuple[str, str], ...],
    tuple[bytes, ...],
    tuple[str, int, _Members, bytes, _Members],
    bytes,
]


def _words(value: object) -> Changes:
    pairs = []
    for pair in value if isinstance(value, (tuple, list)) else (None,):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or pair[0] not in CHANGES:
            raise _wrong(f"(kind, name) pairs, kinds {', '.join(CHANGES)}", "changes")
        kind, name = pair
        # The words are shown before anybody compared them with a roster.
        if type(name) is not str or not name.isprintable() or len(name) > 64:
            raise _wrong("names of parties", "changes")
        pairs.append((kind, name))
    if pairs != sorted(set(pairs)):
        raise _wrong("sorted, each once", "changes")
    return tuple(pairs)


def _keys(value: object) -> tuple[bytes, ...]:
    keys = value if isinstance(value, (tuple, list)) else (None,)
    if len(keys) > MOST_SITES or any(type(k) is not bytes or len(k) != KEY_SIZE for k in keys):
        raise _wrong(f"at most {MOST_SITES} keys of {KEY_SIZE} bytes", "revoked")
    if list(keys) != sorted(set(keys)):
        raise _wrong("sorted, each once", "revoked")
    return tuple(keys)


def _names(value: Iterable[str], place: str) -> tuple[str, ...]:
    wrong = isinstance(value, (str, bytes)) or not isinstance(value, Iterable)
    names = (None,) if wrong else tuple(value)
    if any(type(name) is not str for name in names):
        raise _wrong("names in a list", place)
    return tuple(str(name) for name in names)


def _keyed(value: Mapping[str, bytes] | None, place: str) -> dict[str, bytes]:
    if not isinstance(value, Mapping | None):
        raise _wrong("public keys by name", place)
    return dict(value or {})


def _owner(enrolment: object) -> Identity:
    if not isinstance(enrolment, Identity):
        raise MisuseError("the enrolment key is an Identity (keygen)", rule="arguments")
    return enrolment


def _renewed(members: _Members, rotate: Mapping[str, bytes], away: set[str]) -> list[Any]:
    return [(name, rotate.get(name, key)) for name, key in members if name not in away]


def _places(roster: Roster) -> dict[tuple[str, str], bytes]:
    """Keys by (role, name): a site that becomes a holder leaves and joins."""
    found = {("site", name): key for name, key in roster.sites}
    found |= {("holder", name): key for name, key in roster.holders}
    return found | {("server", SERVER_NAME): roster.server}


def rotated_away(before: Roster, after: Roster) -> set[bytes]:
    """Old keys of those who are in both rosters under different keys."""
    new = _places(after)
    return {key for place, key in _places(before).items() if new.get(place, key) != key}


def changes_between(before: Roster, after: Roster, revoked: Iterable[bytes]) -> Changes:
    """What happened between two rosters, in words."""
    old, new, revoked = _places(before), _places(after), set(revoked)
    found = {("joined", place[1]) for place in new if place not in old}
    for place, key in old.items():
        if place not in new:
            found.add(("revoked" if key in revoked else "left", place[1]))
        elif new[place] != key:
            found.add(("rotated", place[1]))
    return tuple(sorted(found))


def verify_signature(enrolment: bytes, signed: SignedRoster) -> None:
    """Raise :class:`AuthenticationError` unless the key ``enrolment`` signed this roster.

    The key that the roster names is in the digest, but is only what it says of itself.
    """
    rule = "enrolment-signature"
    try:
        verify(
            enrolment,
            signed.digest,
            signed.signature,
            rule=rule,
            signer=ENROLMENT,
            sender=ENROLMENT,
        )
    except AuthenticationError:
        raise AuthenticationError(
            f"this enrolment key did not sign the roster of epoch {signed.epoch}",
            rule=rule,
            sender=ENROLMENT,
        ) from None


def dump_chain(chain: Sequence[SignedRoster]) -> str:
    """TOML text of signed rosters, oldest first; :func:`load_chain` gives them back."""
    if not isinstance(chain, (list, tuple)) or not chain:
        raise MisuseError("a chain is a list of SignedRoster", rule="arguments")
    if not all(isinstance(one, SignedRoster) for one in chain):
        raise MisuseError("a chain is a list of SignedRoster", rule="arguments")
    lines = ["# Signed rosters of secagg, oldest first. Signatures are of canonical bytes."]
    for one in chain:
        revoked = ", ".join(_value(key.hex()) for key in one.revoked)
        changes = ", ".join(f"[{_value(kind)}, {_value(name)}]" for kind, name in one.changes)
        lines += [
            "",
            "[[epochs]]",
            f"enrolment = {_value(one.enrolment.hex())}",
            f"previous = {_value(one.previous.hex())}",
            f"changes = [{changes}]",
            f"revoked = [{revoked}]",
            f"signature = {_value(one.signature.hex())}",
            dump_roster(one.roster, prefix="epochs.roster").rstrip("\n"),
        ]
    return "\n".join(lines) + "\n"


def load_chain(text: str) -> tuple[SignedRoster, ...]:
    """The signed rosters in TOML text, none of them verified; :class:`PlanError` otherwise."""
    if isinstance(text, str) and len(text) > MOST_TEXT:
        raise _wrong(f"at most {MOST_TEXT} characters", "epochs")
    data = _parse(text)
    epochs = data.get("epochs")
    if set(data) != {"epochs"} or not isinstance(epochs, list) or not epochs:
        raise _wrong("a file of signed rosters has [[epochs]] and nothing else", "epochs")
    return tuple(_from_dict(entry) for entry in epochs)


def _from_dict(data: Any) -> SignedRoster:
    known = {"enrolment", "previous", "changes", "revoked", "signature", "roster"}
    if not isinstance(data, dict) or set(data) != known:
        raise _wrong(f"each of the epochs has {', '.join(sorted(known))}", "epochs")
    try:
        return SignedRoster(
            roster=Roster.from_dict(data["roster"]),
            enrolment=bytes.fromhex(data["enrolment"]),
            previous=bytes.fromhex(data["previous"]),
            changes=data["changes"],
            revoked=tuple(bytes.fromhex(key) for key in data["revoked"]),
            signature=bytes.fromhex(data["signature"]),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, PlanError):
            raise
        raise _wrong("keys, digests and signatures are hexadecimal", "epochs") from None
