"""What a server checks, one method a rule (ids, attacks, negative vectors: ``rules.py``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from secagg_native import check_padding

from ..errors import DecodeError, MisuseError, PeerError, ThresholdError
from ..events import Step
from ..hub import ServerParty
from ..keys import KEY_SIZE, ExchangeKey, agree, clamp
from ..kinds import Kind
from . import masks

_ANY_SCALAR: Final = ExchangeKey(bytes(range(KEY_SIZE)))


class ServerChecks(ServerParty):
    """The rules of a server, and the state they look at."""

    _adverts: dict[int, bytes]
    _owners: dict[bytes, int]
    _commitments: dict[int, bytes]
    _u1: tuple[int, ...]
    _u2: tuple[int, ...]
    _u3: tuple[int, ...]

    # Where this party stands, for callers that run several rounds.

    @property
    def survivors(self) -> tuple[int, ...]:
        """Roster indices of the sites in the sum, once the inputs are closed."""
        return self._u3

    @property
    def advertised(self) -> frozenset[int]:
        """Roster indices of the sites whose adverts came."""
        return frozenset(self._adverts)

    # The rules.

    def _check_step_order(self, kind: Kind, site: int) -> None:
        members: Mapping[Step, Iterable[int]] = {
            Step.ADVERTISE: range(self.plan.clients),
            Step.SHARE: self._u1,
            Step.INPUT: self._u2,
            Step.CONSENT: self._u3,
            Step.REVEAL: self._u3,
        }
        fits = not self._done and kind.step == self._step and site not in self._faulty
        if not fits or site not in members[kind.step] or (kind.number, site) in self._accepted:
            raise PeerError(
                "this message comes early, late, again, or from a site that left",
                rule="step-order",
                sender=self._name(site),
            )

    def _check_fresh_keys(self, site: int, keys: bytes) -> None:
        own = {keys[:KEY_SIZE], keys[KEY_SIZE:]}
        others = {self._owners[key] for key in own if key in self._owners}
        if len(own) != 2 or others:
            # Who copied whom cannot be told from here: the first to arrive may be the copy.
            raise PeerError(
                "a key was advertised before",
                rule="fresh-keys",
                sender=self._name(site),
                suspects=self._names({site, *others}),
            )

    def _check_low_order(self, site: int, keys: bytes) -> None:
        # Every clamped scalar sends a point of low order to zero, so any scalar finds it. Left
        # to the sites, one such key would end all honest neighbours of its owner.
        for at in (0, KEY_SIZE):
            agree(_ANY_SCALAR, keys[at : at + KEY_SIZE], sender=self._name(site))

    def _check_padding(self, site: int, packed: memoryview) -> None:
        try:
            check_padding(packed, self.plan.ring_length, self.plan.wire_bits)
        except ValueError as error:
            raise DecodeError(
                "unused bits of a masked input are set", rule="padding", sender=self._name(site)
            ) from error

    def _check_consent_set(self, site: int, survivors: bytes, announced: bytes) -> None:
        if survivors != announced:
            raise PeerError(
                "a consent names other survivors", rule="consent-set", sender=self._name(site)
            )

    def _check_reveal_relations(self, site: int, missing: set[int], relations: set[int]) -> None:
        if not missing <= relations:
            raise DecodeError(
                "a reveal lists sites it holds no shares of",
                rule="reveal-relations",
                sender=self._name(site),
            )

    def _check_holders(self, step: Step, site: int, have: int, suspects: set[int]) -> None:
        need = self.plan.protocol.share_threshold
        if have < need:
            raise ThresholdError(
                f"too few holders of the shares of {self._name(site)}",
                rule="holders",
                step=step.label,
                have=have,
                need=need,
                suspects=self._names(suspects),
            )

    def _check_decoded(self, site: int, secret: bytes | None, holders: tuple[int, ...]) -> None:
        if secret is None:
            raise self._inconsistent("decoded", site, holders, "do not lie on one polynomial")

    def _check_commitment(self, site: int, secret: bytes, holders: tuple[int, ...]) -> None:
        if masks.commitment(self.contexts.setup, site, secret) != self._commitments[site]:
            raise self._inconsistent(
                "commitment", site, holders, "give another self seed than the one committed to"
            )

    def _check_mask_key(
        self, site: int, secret: bytes, public: bytes, holders: tuple[int, ...]
    ) -> None:
        # Seeds that differ only in clamped bits have the same key, so without the first half
        # holders could move an honest dealer's secret and pass the blame on.
        if secret != clamp(secret) or public != self._adverts[site][:KEY_SIZE]:
            raise self._inconsistent(
                "mask-key", site, holders, "give another mask key than the one advertised"
            )

    def _check_dump_age(self) -> None:
        """The journal holds every step that the dump has closed, and at most one more."""
        newest = self._newest()
        current = int(Step.REVEAL) if self._done else int(self._step or 0)
        closed = current if self._done else max(0, current - 1)
        if self._step == Step.REVEAL and not self._done and not self.plan.signed:
            closed = int(Step.INPUT)
        if not closed <= newest <= current:
            raise MisuseError(
                f"the journal's last step is {newest}, this dump needs {closed} to {current}; "
                "one of them is an older copy",
                rule="dump-age",
            )

    def _require_holders(
        self, step: Step, site: int, have: int, suspects: set[int] | None = None
    ) -> None:
        self._check_holders(step, site, have, suspects or set())

    def _inconsistent(self, rule: str, site: int, holders: tuple[int, ...], text: str) -> PeerError:
        suspects = self._names({site, *holders})
        return PeerError(
            f"the shares of {self._name(site)} {text}; the round is aborted",
            rule=rule,
            # Nobody is convicted on shares: dealer or holders may have lied.
            suspects=suspects,
        )
