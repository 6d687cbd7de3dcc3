"""What an audit checks, one method a rule (ids and attacks: ``audit_rules.py``).

Only a signature convicts, and only its signer. A transcript is the word of whoever recorded it:
a site may invent what it received, leave things out, and have colluding sites sign anything. So
the server is never convicted by what a site signed, nor a site by what the server says that it
was told; and where a tail was recorded by its hash, nothing is concluded from its stated size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any, Final

from secagg_native import check_padding
from secagg_protocols.errors import DecodeError, PeerError
from secagg_protocols.keys import KEY_SIZE, ExchangeKey, agree
from secagg_protocols.masked_sum import masks
from secagg_protocols.masked_sum import messages as inner
from secagg_protocols.plan import Plan, masked_of
from secagg_protocols.result import Result, aggregate_digest, ring_size
from secagg_protocols.shamir import SHARE_SIZE
from secagg_protocols.wire import SERVER, SIGNATURE_SIZE, from_bitmap

from . import messages
from .audit_frames import Frames
from .audit_rules import Conviction, Doubt, Signed, Stated
from .messages import Slot

#: Kinds of which an honest party may sign two for one place: what a report says depends on what
#: is left after a crash, and which agreements are relayed on who answered first.
_REPEATABLE: Final = frozenset({messages.REPORT.number, messages.AGREED.number})
_RELAYING: Final = frozenset({inner.CONSENTS.number, messages.AGREED.number})
#: Kinds whose tails other frames are held against; all other tails are let go once looked at.
_TELLING: Final = _RELAYING | {inner.ADVERTS.number}
_ANY_SCALAR: Final = ExchangeKey(bytes(range(KEY_SIZE)))

#: Sets and results of one round that are held against others. With two the server is convicted,
#: and signing more of them must not make an audit long.
_MOST_VARIANTS: Final = 4
_Sets = dict[int, Signed]
#: Sites that a finding names one by one.
_MOST_NAMES: Final = 8

#: The sets of a round by name, each within the one before.
SETS: Final = {"U1": "advertised", "U2": "shared", "U3": "survived"}


class Checks:
    """The rules of an audit, and what they have seen of one session under one plan."""

    def __init__(self, plan: Plan, session: bytes) -> None:
        self.plan, self.session = plan, session
        self.frames = Frames(plan, session)
        self.convictions: list[Conviction] = []
        self.doubts: list[Doubt] = []
        self._said: set[tuple[str, str, int]] = set()
        self._places: dict[tuple[int, ...], Signed] = {}
        self._stated: dict[int, tuple[Stated, Signed]] = {}
        self._adverts: dict[tuple[int, int], tuple[bytes, Signed]] = {}
        self._relays: set[tuple[object, ...]] = set()
        #: (round, set) -> members as bits of an integer -> the frame that says so.
        self.sets: dict[tuple[int, str], dict[int, Signed]] = {}
        #: Round -> aggregate digest -> a result of the server's that carries it.
        self.results: dict[int, dict[bytes, Signed]] = {}
        self._relaying: list[Signed] = []
        #: Round -> (site, digest) -> the agreement.
        self.agreements: dict[int, dict[tuple[int, bytes], Signed]] = {}

    # Rules of one frame.

    def _check_malformed(self, frame: Signed) -> None:
        if frame.header is None:
            return self._convict("malformed", frame, "has no header of its kind", frame)
        try:
            wanted, unit = self._tail_size(frame)
        except DecodeError:
            return self._convict("malformed", frame, "has a site list that is none", frame)
        size = None if frame.tail is None else len(frame.tail)
        if size is not None and (size % unit if wanted is None else size != wanted):
            self._convict("malformed", frame, "has a tail of another length", frame)
        return None

    def _check_advert_keys(self, frame: Signed) -> None:
        tail = frame.tail or b""
        keys = tail[:KEY_SIZE], tail[KEY_SIZE:]
        try:
            for key in keys:
                agree(_ANY_SCALAR, key, sender="")
            good = keys[0] != keys[1]
        except PeerError:
            good = False
        if not good:
            self._convict("advert-keys", frame, "has a key of low order, or one key twice", frame)

    def _check_input_padding(self, frame: Signed) -> None:
        try:
            check_padding(frame.tail or b"", self.plan.ring_length, self.plan.wire_bits)
        except ValueError:
            self._convict("input-padding", frame, "sets bits that belong to no coordinate", frame)

    def _check_advert_list(self, frame: Signed, header: inner.Adverts) -> None:
        near, present = self._bits(header.neighbours), self._bits(header.present)
        right = near.bit_count() == masked_of(self.plan).neighbours and not _has(
            near, frame.recipient
        )
        if not right or present & ~near:
            self._convict("advert-list", frame, "names sites outside the plan's graph", frame)

    def _check_advert_relay(self, frame: Signed, site: int, advert: Signed | None) -> None:
        if advert is None:
            text = f"relays an advert that {self._name(site)} did not sign"
            self._convict("advert-relay", frame, text, frame)

    def _check_advert_distinct(self, frame: Signed, rows: dict[int, bytes]) -> None:
        keys = [keys[at : at + KEY_SIZE] for keys in rows.values() for at in (0, KEY_SIZE)]
        if len(set(keys)) != len(keys):
            self._convict("advert-distinct", frame, "relays one key twice", frame)

    def _check_cohort(self, frame: Signed, cohort: int, seen: int, holders: int | None) -> None:
        plan = self.plan
        fits = cohort == seen if plan.complete else seen <= cohort <= plan.clients
        if cohort < plan.min_survivors or not fits:
            text = f"states {cohort} sites, lists {seen}; at least {plan.min_survivors} are agreed"
            self._convict("cohort", frame, text, frame)
        elif holders is not None and holders < plan.protocol.share_threshold:
            self._convict("cohort", frame, f"leaves {holders} holders of a site's shares", frame)

    def _check_result_tail(self, frame: Signed, header: Result) -> None:
        if not self.plan.sites_receive or frame.tail is None:
            return
        packed = frame.tail
        digest = aggregate_digest(frame.context, header.survivors, [packed], len(packed))
        if digest != header.digest:
            self._convict("result-tail", frame, "carries another sum than its digest", frame)

    # Rules of two frames.

    def _check_equivocation(self, frame: Signed, place: tuple[int, ...]) -> None:
        known = self._places.setdefault(place, frame)
        if known.digest != frame.digest:
            text = f"is one of two different messages to {self._name(frame.recipient)}"
            self._convict("equivocation", frame, text, known, frame)

    def _check_one_model(self, frame: Signed, round: int, stated: Stated) -> None:
        known, first = self._stated.setdefault(round, (stated, frame))
        if known != stated:
            text = "and another message of this round are bound to different models"
            self._convict("one-model", frame, text, first, frame, round=round)

    def _check_one_advert(self, frame: Signed, site: int, keys: bytes) -> None:
        known, first = self._adverts.setdefault((frame.round, site), (keys, frame))
        if known != keys:
            text = f"relays other keys of {self._name(site)} than to {self._name(first.recipient)}"
            self._convict("one-advert", frame, text, first, frame)

    def _check_one_cohort(self, frame: Signed, name: str, members: int, known: _Sets) -> None:
        for other, first in islice(known.items(), 1):
            if other != members:
                text = (
                    f"and {first.name} to {self._name(first.recipient)} disagree on whether "
                    f"{self._names(members ^ other)} {SETS[name]}"
                )
                self._convict("one-cohort", frame, text, first, frame)

    def _check_nested_sets(self, frame: Signed, inside: int, outside: int, other: Signed) -> None:
        if inside & ~outside:
            text = f"and another message disagree on {self._names(inside & ~outside)}"
            self._convict("nested-sets", frame, text, other, frame)

    def _check_one_result(self, frame: Signed, header: Result) -> None:
        known = self.results.setdefault(frame.round, {})
        for digest, first in islice(known.items(), 1):
            if digest != header.digest:
                text = f"states another sum than {self._name(first.recipient)} was told"
                self._convict("one-result", frame, text, first, frame)
        known.setdefault(header.digest, frame)

    def _check_consent_signers(self, frame: Signed, signers: int, lists: dict[int, Signed]) -> None:
        need = self.plan.protocol.share_threshold
        if signers.bit_count() != need:
            text = f"relays {signers.bit_count()} consents, exactly {need} are needed"
            self._convict("consent-signers", frame, text, frame)
        elif lists and all(signers & ~members for members in lists):
            text = "relays a consent from outside the survivors"
            self._convict("consent-signers", frame, text, next(iter(lists.values())), frame)

    def _check_consent_relay(
        self, frame: Signed, site: int, consent: Signed | None, lists: dict[int, Signed]
    ) -> None:
        if consent is None and lists:
            text = f"relays a consent to its survivors that {self._name(site)} did not sign"
            self._convict("consent-relay", frame, text, next(iter(lists.values())), frame)

    def _check_agreed_relay(
        self, frame: Signed, site: int, agreement: Signed | None, results: dict[bytes, Signed]
    ) -> None:
        if agreement is None and results:
            text = f"relays an agreement to its result that {self._name(site)} did not sign"
            first = next(iter(results.values()))
            self._convict("agreed-relay", frame, text, first, frame, round=first.round)

    def _check_agreement(self, agreement: Signed, results: dict[bytes, Signed]) -> None:
        header: Any = agreement.header
        if results and header.digest not in results:
            # Either may lie: the site about what it was sent, the server about what it sent.
            text = f"{self._name(agreement.signer)} agreed to another result than the one known"
            suspects = (self._name(SERVER), self._name(agreement.signer))
            self._doubt("agreement", header.round, text, suspects)

    # Rules of a replay.

    def _check_replay(self, round: int, differences: Sequence[str]) -> None:
        for text in differences:
            self._doubt("replay", round, f"{text} (a false message, or a false transcript)")

    def _check_outcome(self, round: int, differences: Sequence[str]) -> None:
        for text in differences:
            self._doubt("outcome", round, f"{text} (false lists, or a false transcript)")

    def hold_replay(self, round: int, differences: Sequence[str]) -> None:
        """Take in what a replay of the server's messages gave otherwise."""
        self._check_replay(round, differences)

    def hold_outcome(self, round: int, differences: Sequence[str]) -> None:
        """Take in what a replay gave otherwise than the server's own lists."""
        self._check_outcome(round, differences)

    # What frames go through.

    def admit(self, frame: Signed) -> None:
        """Check an authentic frame alone, and against those that were seen before."""
        before = len(self.convictions)
        self._check_malformed(frame)
        sound = len(self.convictions) == before and frame.header is not None
        if sound:
            self._look_into(frame)
        kept = frame
        if frame.tail and not self._proves(frame, before):
            kept = replace(frame, tail=None)
        place = self._place(kept)
        if place is not None:
            self._check_equivocation(kept, place)
        model = self._model_of(kept)
        if model is not None:
            self._check_one_model(kept, *model)
        if sound:
            self._look_around(kept)

    def conclude(self) -> None:
        """The rules that need everything to have been seen."""
        for frame in self._relaying:
            if frame.kind is inner.CONSENTS:
                self._conclude_consents(frame)
            else:
                self._conclude_agreed(frame)
        for number, agreements in self.agreements.items():
            for agreement in agreements.values():
                self._check_agreement(agreement, self.results.get(number, {}))

    def _proves(self, frame: Signed, before: int) -> bool:
        """Whether the tail itself is, or may become, a part of a proof."""
        return len(self.convictions) > before or frame.kind.number in _TELLING

    def _look_into(self, frame: Signed) -> None:
        """Rules of one frame that need its content."""
        header: Any = frame.header
        kind, whole = frame.kind, frame.tail is not None
        if kind is inner.ADVERT and whole:
            self._check_advert_keys(frame)
        elif kind is inner.INPUT and whole:
            self._check_input_padding(frame)
        elif kind is inner.ADVERTS:
            self._check_advert_list(frame, header)
            size = self._bits(header.present).bit_count() + 1
            self._check_cohort(frame, header.cohort, size, size)
            self._relayed_adverts(frame, header)
        elif kind is inner.SHARES_FOR or kind is inner.SURVIVORS:
            present = self._bits(header.present)
            size = present.bit_count()
            holders = size if _has(present, frame.recipient) else None
            self._check_cohort(frame, header.cohort, size, holders)
        elif kind is inner.RESULT:
            size = self._bits(header.survivors).bit_count()
            self._check_cohort(frame, size, size, None)
            self._check_result_tail(frame, header)

    def _look_around(self, frame: Signed) -> None:
        """Rules that hold a frame against others."""
        header: Any = frame.header
        kind = frame.kind
        if kind is inner.ADVERTS:
            self._add_set(frame, "U1", self._bits(header.present) | 1 << frame.recipient)
        elif kind is inner.SHARES_FOR:
            self._add_set(frame, "U2", self._bits(header.present))
        elif kind is inner.SURVIVORS:
            self._add_set(frame, "U3", self._bits(header.present))
        elif kind is inner.RESULT:
            self._add_set(frame, "U3", self._bits(header.survivors))
            self._check_one_result(frame, header)
        elif kind.number in _RELAYING:
            self._relaying.append(frame)
        elif kind is messages.AGREE:
            known = self.agreements.setdefault(header.round, {})
            known.setdefault((frame.signer, header.digest), frame)

    def _add_set(self, frame: Signed, name: str, members: int) -> None:
        """Hold a set against what others were told; only on the complete graph is it whole."""
        if not self.plan.complete:
            return
        known = self.sets.setdefault((frame.round, name), {})
        if members in known:
            return
        self._check_one_cohort(frame, name, members, known)
        known[members] = frame
        for outer, within in pairwise(SETS):
            if name == within:
                for big, other in self._variants((frame.round, outer)):
                    self._check_nested_sets(frame, members, big, other)
            elif name == outer:
                for small, other in self._variants((frame.round, within)):
                    self._check_nested_sets(frame, small, members, other)

    def _variants(self, key: tuple[int, str]) -> Iterator[tuple[int, Signed]]:
        """The first few sets that were told; whoever told a second one is convicted by that."""
        yield from islice(self.sets.get(key, {}).items(), _MOST_VARIANTS)

    def _relayed_adverts(self, frame: Signed, header: inner.Adverts) -> None:
        if frame.tail is None:
            return
        rows = dict(self._rows(frame, header.present, inner.relayed_advert_size(self.plan)))
        cut = inner.ADVERT_SIZE
        self._check_advert_distinct(frame, {site: row[:cut] for site, row in rows.items()})
        for site, row in rows.items():
            self._check_one_advert(frame, site, row[:cut])
            if not self.plan.signed or self._known_relay(frame.context, site, row):
                continue
            advert = self.frames.relayed(
                frame, inner.ADVERT, site, inner.Advert(), row[:cut], row[cut:]
            )
            self._check_advert_relay(frame, site, advert)
            self._admit_relayed(advert, frame.context, site, row)

    def _conclude_consents(self, frame: Signed) -> None:
        header: Any = frame.header
        lists = self.sets.get((frame.round, "U3"), {})
        self._check_consent_signers(frame, self._bits(header.signers), lists)
        if frame.tail is None or len(lists) > _MOST_VARIANTS:
            return
        for site, signature in self._rows(frame, header.signers, SIGNATURE_SIZE):
            if self._known_relay(frame.context, site, signature):
                continue
            consent = None
            for members in lists:
                bitmap = members.to_bytes((self.plan.clients + 7) // 8, "little")
                said = inner.Consent(masks.survivors_digest(frame.context, bitmap))
                consent = consent or self.frames.relayed(
                    frame, inner.CONSENT, site, said, b"", signature
                )
            self._check_consent_relay(frame, site, consent, lists)
            self._admit_relayed(consent, frame.context, site, signature)

    def _conclude_agreed(self, frame: Signed) -> None:
        header: Any = frame.header
        results = self.results.get(header.round, {})
        if frame.tail is None or len(results) > _MOST_VARIANTS:
            return
        for site, signature in self._rows(frame, header.signers, SIGNATURE_SIZE):
            if self._known_relay(header.round, site, signature):
                continue
            agreement = None
            for digest in results:
                said = messages.Agree(header.round, digest)
                agreement = agreement or self.frames.relayed(
                    frame, messages.AGREE, site, said, b"", signature
                )
            self._check_agreed_relay(frame, site, agreement, results)
            self._admit_relayed(agreement, header.round, site, signature)

    def _known_relay(self, *what: object) -> bool:
        """Whether this signature was seen before: the server relays one to every site."""
        return what in self._relays

    def _admit_relayed(self, frame: Signed | None, *what: object) -> None:
        if frame is not None:
            self._relays.add(what)
            self.admit(frame)

    # Small things.

    def _place(self, frame: Signed) -> tuple[int, ...] | None:
        """Where no honest party signs twice; ``None`` for kinds that have no such place."""
        kind, header = frame.kind, frame.header
        place = (kind.number, frame.signer, frame.recipient)
        if kind.number in inner.KINDS:
            return (*place, frame.round)
        if kind.number in _REPEATABLE or header is None:
            return None
        number = header.exchange if isinstance(header, messages.Order) else 0
        number = header.round if isinstance(header, messages.Agree) else number
        return (*place, number)

    def _model_of(self, frame: Signed) -> tuple[int, Stated] | None:
        """The round and the model to which the server bound itself by this frame."""
        header = frame.header
        if isinstance(header, messages.Order) and header.slot == Slot.INPUT:
            return header.round, (header.model, header.parameters)
        if frame.stated is not None and frame.signer == SERVER:
            return frame.round, frame.stated
        return None

    def _tail_size(self, frame: Signed) -> tuple[int | None, int]:
        """Bytes of the tail where plan and header tell, else ``None``; and their divisor."""
        plan, kind = self.plan, frame.kind
        header: Any = frame.header
        lists = {
            name: self._bits(getattr(header, name))
            for name in ("neighbours", "present", "signers", "missing", "survivors")
            if name in header.__struct_fields__ and kind is not inner.CONSENT
        }
        if kind is inner.SHARES or kind is inner.REVEAL:
            return None, inner.SEALED_SIZE if kind is inner.SHARES else SHARE_SIZE
        size = 0
        if kind is inner.ADVERT:
            size = inner.ADVERT_SIZE
        elif kind is inner.ADVERTS:
            size = inner.relayed_advert_size(plan) * lists["present"].bit_count()
        elif kind is inner.SHARES_FOR and _has(lists["present"], frame.recipient):
            size = inner.SEALED_SIZE * (lists["present"].bit_count() - 1)
        elif kind is inner.INPUT or (kind is inner.RESULT and plan.sites_receive):
            size = ring_size(plan)
        elif kind.number in _RELAYING:
            size = SIGNATURE_SIZE * lists["signers"].bit_count()
        return size, 1

    def _rows(self, frame: Signed, sites: bytes, size: int) -> Iterator[tuple[int, bytes]]:
        """What a tail holds for each site of a list."""
        tail = frame.tail or b""
        for at, site in enumerate(from_bitmap(sites, self.plan.clients)):
            yield site, tail[at * size : (at + 1) * size]

    def _bits(self, bitmap: bytes) -> int:
        """A site list as bits of an integer; :class:`DecodeError` where it is none."""
        if len(bitmap) != (self.plan.clients + 7) // 8:
            raise DecodeError("a site list of another roster", rule="header")
        bits = int.from_bytes(bitmap, "little")
        if bits >> self.plan.clients:
            raise DecodeError("a site list names sites beyond the roster", rule="header")
        return bits

    def _name(self, index: int) -> str:
        return self.frames.name(index)

    def _names(self, members: int) -> str:
        names = name_of(self.plan, members)
        more = len(names) - _MOST_NAMES
        return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")

    def _convict(
        self, rule: str, frame: Signed, text: str, *proof: Signed, round: int | None = None
    ) -> None:
        """Convict the signer of ``frame``, once for a rule and round."""
        number = frame.round if round is None else round
        if number < 0:
            number = getattr(frame.header, "round", -1)
        party = self._name(frame.signer)
        said = f"{frame.name} to {self._name(frame.recipient)} {text}"
        if not self.plan.signed:
            self._doubt(rule, number, f"{said} (nothing is signed)", (party,))
        elif (rule, party, number) not in self._said:
            self._said.add((rule, party, number))
            self.convictions.append(Conviction(party, rule, number, said, proof))

    def _doubt(self, rule: str, round: int, text: str, suspects: tuple[str, ...] = ()) -> None:
        text = printable(text)
        if (rule, text, round) not in self._said:
            self._said.add((rule, text, round))
            self.doubts.append(Doubt(rule, round, text, suspects))


def name_of(plan: Plan, members: int) -> tuple[str, ...]:
    """Names of the sites whose bits are set."""
    return tuple(name for at, name in enumerate(plan.roster.names) if members >> at & 1)


def printable(text: str) -> str:
    """Text out of a file as it may be shown: what steers a terminal is escaped."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _has(members: int, site: int) -> bool:
    return bool(members >> site & 1)


__all__ = ["SETS", "Checks", "name_of", "printable"]
