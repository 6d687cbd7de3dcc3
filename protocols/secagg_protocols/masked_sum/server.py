"""The server's side of the masked sum: collect, close a step, and open only the sum."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from secagg_native import add_keystreams, bitpack

from ..errors import MisuseError, PeerError, SecAggError
from ..events import Dropped, Event, Ignored, Progress, Step
from ..hub import Message
from ..journal import JOURNAL_IO_RULE
from ..keys import KEY_SIZE, SEED_SIZE, ExchangeKey
from ..kinds import Kind
from ..plan import Plan
from ..result import ring_size
from ..shamir import SHARE_SIZE, decode_shares
from ..wire import SERVER, Buffer, Frame, to_bitmap
from . import masks, messages
from .graph import draw
from .messages import SEALED_SIZE
from .server_checks import ServerChecks
from .unmask import Recovery, unmask_keys


class Server(ServerChecks):
    """The aggregator of one round of a masked sum (``protocols/specs/masked_sum.md``).

    Memory is one accumulator and what the steps before the input left: inputs are added as
    they arrive and not kept.
    """

    kinds = messages.KINDS

    def __init__(self, plan: Plan, index: int = SERVER, **common: Any) -> None:
        super().__init__(plan, index, **common)
        self._opened = False  # the accumulator has been unmasked, in place
        self._suspects: set[int] = set()
        self._graph: Sequence[tuple[int, ...]] = ()
        self._graph_seed = b""
        self._adverts: dict[int, bytes] = {}
        self._owners: dict[bytes, int] = {}  # advertised key -> site
        self._signatures: dict[int, bytes] = {}  # of the adverts, relayed under signed plans
        self._sealed: dict[int, bytes] = {}
        self._commitments: dict[int, bytes] = {}
        self._accumulator = np.zeros(0, dtype=plan.lane)
        self._inputs: set[int] = set()
        self._u1: tuple[int, ...] = ()
        self._u2: tuple[int, ...] = ()
        self._u3: tuple[int, ...] = ()
        self._consents: dict[int, bytes] = {}
        self._reveals: dict[int, tuple[bytes, tuple[int, ...]]] = {}

    # Contract.

    @property
    def steps(self) -> tuple[Step, ...]:
        """Consent is asked for where the plan signs."""
        return tuple(step for step in Step if step != Step.CONSENT or self.plan.signed)

    def _largest(self, kind: Kind) -> int:
        return messages.largest_frame(self.plan, kind)

    def start(self) -> list[Event]:
        """Open step 1; nothing is sent."""
        self._require_alive()
        if self._step is not None:
            raise MisuseError("this party was started before", rule="start-once")
        self._step = Step.ADVERTISE
        self._graph_seed = self._entropy(SEED_SIZE)
        if self.plan.central_noise:
            self._noise_seed = self._entropy(SEED_SIZE)
        self._clock = time.monotonic()
        return []

    def receive(self, data: Buffer, *, sender: str | None = None) -> list[Event]:
        """Take one message of a site. Never raises for bytes.

        Authentic bad content is that site's end (``Dropped``); anything else that does not fit
        is ``Ignored`` and changes nothing.
        """
        if self._ended is not None:
            return [Ignored(self._ended)]
        try:
            frame, digest = self._authenticate(data, sender)
        except (PeerError, MisuseError) as error:
            return [Ignored(error)]
        site = frame.sender
        try:
            self._check_equivocation(frame, digest)
            kind = self.kinds[frame.kind]
            try:
                self._check_step_order(kind, site)
            except PeerError as error:
                return [Ignored(error)]
            size = memoryview(data).nbytes
            self._take(kind, frame)
        except PeerError as error:
            return self._drop(site, error)
        self._accepted[frame.kind, site] = digest
        self._received += size
        have, most = self._arrived()
        return [Progress(kind.step, have, self._need(), most)]

    def _drop(self, site: int, error: SecAggError) -> list[Event]:
        """End a site. An input that was added stays in the sum; its self mask is recovered."""
        if site in self._faulty or self._done:
            return [Ignored(error)]
        self._faulty.add(site)
        if self._step == Step.ADVERTISE:
            for key in self._keys_of(self._adverts.pop(site, b"")):
                self._owners.pop(key, None)
        if self._step == Step.SHARE:
            self._sealed.pop(site, None)
        if self._step == Step.CONSENT:
            self._consents.pop(site, None)
        if self._step == Step.REVEAL:
            self._reveals.pop(site, None)
        return [Dropped(self._name(site), error)]

    def _arrived(self) -> tuple[int, int]:
        """Messages of this step so far, and how many could come."""
        sizes = {
            Step.ADVERTISE: (len(self._adverts), self.plan.clients),
            Step.SHARE: (len(self._sealed), len(self._u1)),
            Step.INPUT: (len(self._inputs), len(self._u2)),
            Step.CONSENT: (len(self._consents), len(self._u3)),
            Step.REVEAL: (len(self._reveals), len(self._u3)),
        }
        return sizes[self._step or Step.ADVERTISE]

    def _need(self) -> int:
        if self._step in {Step.CONSENT, Step.REVEAL}:
            return self.plan.protocol.share_threshold
        return self.plan.min_survivors

    def close_step(self) -> list[Event]:
        """Stop waiting: go on with the sites whose messages arrived.

        Raises :class:`ThresholdError` where too few are left, and :class:`PeerError` with
        suspects where shares cannot be decoded; both end the round.
        """
        self._require_alive()
        if self._step is None or self._done:
            raise MisuseError("there is no open step", rule="start-once")
        closing: dict[Step, Callable[[], list[Event]]] = {
            Step.ADVERTISE: self._close_adverts,
            Step.SHARE: self._close_shares,
            Step.INPUT: self._close_inputs,
            Step.CONSENT: self._close_consents,
            Step.REVEAL: self._close_reveals,
        }
        try:
            return closing[self._step]()
        except SecAggError as error:
            if error.rule != JOURNAL_IO_RULE:
                self._end(error)
            raise

    def _take(self, kind: Kind, frame: Frame) -> None:
        {
            Step.ADVERTISE: self._on_advert,
            Step.SHARE: self._on_shares,
            Step.INPUT: self._on_input,
            Step.CONSENT: self._on_consent,
            Step.REVEAL: self._on_reveal,
        }[kind.step](frame)

    # Step 1: adverts.

    def _on_advert(self, frame: Frame) -> None:
        self._header(frame, messages.Advert)
        keys = bytes(self._tail(frame, messages.ADVERT_SIZE))
        self._check_fresh_keys(frame.sender, keys)
        self._check_low_order(frame.sender, keys)
        self._own_keys(frame.sender, keys)
        if self.plan.signed:
            self._signatures[frame.sender] = frame.trailer

    def _own_keys(self, site: int, keys: bytes) -> None:
        self._adverts[site] = keys
        self._owners |= dict.fromkeys(self._keys_of(keys), site)

    @staticmethod
    def _keys_of(keys: bytes) -> tuple[bytes, ...]:
        return (keys[:KEY_SIZE], keys[KEY_SIZE:]) if keys else ()

    def _close_adverts(self) -> list[Event]:
        plan = self.plan
        self._require(Step.ADVERTISE, len(self._adverts), plan.min_survivors)
        self._u1 = tuple(sorted(self._adverts))
        self._graph = draw(plan, self._graph_seed)
        advertised = set(self._u1)
        out: list[Message] = []
        for site in self._u1:
            present = [peer for peer in self._graph[site] if peer in advertised]
            self._require_holders(Step.ADVERTISE, site, len(present) + 1)
            tail = b"".join(
                self._adverts[peer] + self._signatures.get(peer, b"") for peer in present
            )
            header = messages.Adverts(
                to_bitmap(self._graph[site], plan.clients),
                to_bitmap(present, plan.clients),
                len(self._u1),
            )
            out.append((site, header, tail))
        return self._announce(messages.ADVERTS, out, Step.SHARE)

    # Step 2: shares.

    def _on_shares(self, frame: Frame) -> None:
        header = self._header(frame, messages.Shares)
        holders = self._within(frame.sender, frozenset(self._u1))
        self._sealed[frame.sender] = bytes(self._tail(frame, SEALED_SIZE * len(holders)))
        self._commitments[frame.sender] = header.commitment

    def _within(self, site: int, members: AbstractSet[int]) -> list[int]:
        """Neighbours of ``site`` among ``members``, ascending."""
        return [peer for peer in self._graph[site] if peer in members]

    def _close_shares(self) -> list[Event]:
        plan = self.plan
        self._require(Step.SHARE, len(self._sealed), plan.min_survivors)
        self._u2 = tuple(sorted(self._sealed))
        advertised, sharers = frozenset(self._u1), frozenset(self._u2)
        # What each site is to open, dealer by dealer in ascending order: who neighbours whom is
        # mutual, so walking the dealers' own lists meets every pair.
        dealt = {site: bytearray() for site in self._u2}
        for dealer in self._u2:
            pairs = self._sealed[dealer]
            for at, holder in enumerate(self._within(dealer, advertised)):
                if holder in sharers:
                    dealt[holder] += pairs[at * SEALED_SIZE : (at + 1) * SEALED_SIZE]
        out: list[Message] = []
        for site in self._u1:
            dealers = self._within(site, sharers)
            inside = site in sharers
            if inside:
                self._require_holders(Step.SHARE, site, len(dealers) + 1)
            header = messages.SharesFor(
                to_bitmap([*dealers, site] if inside else dealers, plan.clients), len(self._u2)
            )
            out.append((site, header, bytes(dealt.pop(site, b""))))
        self._accumulator = np.zeros(plan.ring_length, dtype=plan.lane)
        events = self._announce(messages.SHARES_FOR, out, Step.INPUT)
        self._sealed = {}
        return events

    # Step 3: masked inputs.

    def _on_input(self, frame: Frame) -> None:
        self._header(frame, messages.Input)
        packed = self._tail(frame, ring_size(self.plan))
        self._check_padding(frame.sender, packed)
        bitpack.unpack_add(self._accumulator, packed, self.plan.wire_bits)
        self._inputs.add(frame.sender)

    def _close_inputs(self) -> list[Event]:
        plan = self.plan
        self._require(Step.INPUT, len(self._inputs), plan.min_survivors)
        self._u3 = tuple(sorted(self._inputs))
        survivors = set(self._u3)
        out: list[Message] = []
        for site in self._u2:
            part = [peer for peer in (*self._graph[site], site) if peer in survivors]
            if site in survivors:
                self._require_holders(Step.INPUT, site, len(part))
            header = messages.Survivors(to_bitmap(part, plan.clients), len(self._u3))
            out.append((site, header, b""))
        after = Step.CONSENT if plan.signed else Step.REVEAL
        return self._announce(messages.SURVIVORS, out, after)

    # Step 4: consents.

    def _on_consent(self, frame: Frame) -> None:
        header = self._header(frame, messages.Consent)
        self._tail(frame, 0)
        self._check_consent_set(frame.sender, header.survivors, self._survivors_digest())
        self._consents[frame.sender] = frame.trailer

    def _survivors_digest(self) -> bytes:
        return masks.survivors_digest(self.contexts.round, to_bitmap(self._u3, self.plan.clients))

    def _close_consents(self) -> list[Event]:
        plan = self.plan
        need = plan.protocol.share_threshold
        self._require(Step.CONSENT, len(self._consents), need)
        signers = sorted(self._consents)[:need]
        tail = b"".join(self._consents[site] for site in signers)
        header = messages.Consents(to_bitmap(signers, plan.clients))
        out: list[Message] = [(site, header, tail) for site in self._u3]
        return self._announce(messages.CONSENTS, out, Step.REVEAL)

    # Step 5: shares are revealed, the sum is opened.

    def _on_reveal(self, frame: Frame) -> None:
        header = self._header(frame, messages.Reveal)
        site = frame.sender
        relations = sorted((*self._within(site, frozenset(self._u2)), site))
        missing = set(self._sites(frame, header.missing))
        self._check_reveal_relations(site, missing, set(relations))
        given = tuple(peer for peer in relations if peer not in missing)
        tail = bytes(self._tail(frame, SHARE_SIZE * len(given)))
        decode_shares(tail, sender=self._name(site))
        self._reveals[site] = (tail, given)

    def _close_reveals(self) -> list[Event]:
        if self._opened:
            # The journal's disk failed after the sum was opened, and the caller tries again.
            return self._release(messages.RESULT, self._accumulator, self._u3, self._suspects)
        plan = self.plan
        need = plan.protocol.share_threshold
        self._require(Step.REVEAL, len(self._reveals), need)
        survivors, sharers = frozenset(self._u3), frozenset(self._u2)
        # The mask seed of a site none of whose neighbours survived is in nobody's way.
        wanted = [s for s in self._u2 if s in survivors or self._within(s, survivors)]
        recovery = Recovery(self._reveals)
        # A share that its holder says it could not open was dealt wrong or is withheld: by
        # dealer, that dealer and those holders.
        withheld: dict[int, set[int]] = {}
        for holder, (_, given) in self._reveals.items():
            for dealer in {*self._within(holder, sharers), holder}.difference(given):
                withheld.setdefault(dealer, {dealer}).add(holder)
        self_seeds: dict[int, bytes] = {}
        mask_seeds: dict[int, ExchangeKey] = {}
        for holders, dealers in recovery.groups(wanted).items():
            for site in dealers:
                self._require_holders(Step.REVEAL, site, len(holders), withheld.get(site))
            for site, secret in zip(dealers, recovery.recover(holders, dealers, need), strict=True):
                self._check_decoded(site, secret, holders)
                found = bytes(SEED_SIZE) if secret is None else secret
                if site in survivors:
                    self._check_commitment(site, found, holders)
                    self_seeds[site] = found
                else:
                    exchange = ExchangeKey(found)
                    self._check_mask_key(site, found, exchange.public, holders)
                    mask_seeds[site] = exchange
        context = self.contexts.round
        keys, nonces, signs = unmask_keys(
            self_seeds,
            mask_seeds,
            self._adverts,
            lambda site: self._within(site, survivors),
            context,
            self._name,
        )
        self._suspects = recovery.suspects.union(*withheld.values())
        self._unmask(keys, nonces, signs)
        return self._release(messages.RESULT, self._accumulator, self._u3, self._suspects)

    def _unmask(self, keys: Any, nonces: Any, signs: Any) -> None:
        try:
            add_keystreams(self._accumulator, keys, nonces, signs, threads=self.threads)
            self._add_central_noise(self._accumulator, self._noise_seed)
        except BaseException:
            # Interrupted half-way: what is in the accumulator is neither masked nor open.
            self._end(MisuseError("opening the sum was interrupted", rule="interrupted"))
            raise
        self._opened = True

    def _departures(self) -> tuple[dict[str, str], dict[str, str]]:
        """Sites that are not in the sum, and survivors that left later, with their steps."""
        dropped: dict[str, str] = {}
        left: dict[str, str] = {}
        u1, u2, u3 = (frozenset(members) for members in (self._u1, self._u2, self._u3))
        for site in range(self.plan.clients):
            if site not in u1:
                dropped[self._name(site)] = Step.ADVERTISE.label
            elif site not in u2:
                dropped[self._name(site)] = Step.SHARE.label
            elif site not in u3:
                dropped[self._name(site)] = Step.INPUT.label
            elif self.plan.signed and site not in self._consents:
                left[self._name(site)] = Step.CONSENT.label
            elif site not in self._reveals:
                left[self._name(site)] = Step.REVEAL.label
        return dropped, left

    # What closing a step has in common.

    def _forget(self) -> None:
        """Drop what the round needed and nothing after it does."""
        self._accumulator = np.zeros(0, dtype=self.plan.lane)
        self._sealed, self._reveals, self._noise_seed = {}, {}, b""

    # Storage.

    def _state(self) -> dict[str, Any]:
        return {
            **self._hub_state(),
            "opened": self._opened,
            "suspects": sorted(self._suspects),
            "graph_seed": self._graph_seed,
            "adverts": list(self._adverts.items()),
            "signatures": list(self._signatures.items()),
            "sealed": list(self._sealed.items()),
            "commitments": list(self._commitments.items()),
            "accumulator": self._accumulator.view(np.uint8).data,
            "inputs": sorted(self._inputs),
            "sets": [list(self._u1), list(self._u2), list(self._u3)],
            "consents": list(self._consents.items()),
            "reveals": [[s, d, list(g)] for s, (d, g) in self._reveals.items()],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self._restore_hub(state)
        self._opened = state["opened"]
        self._suspects = set(state["suspects"])
        self._graph_seed = state["graph_seed"]
        for site, keys in state["adverts"]:
            self._own_keys(site, keys)
        self._signatures = dict(state["signatures"])
        self._sealed = dict(state["sealed"])
        self._commitments = dict(state["commitments"])
        self._accumulator = np.frombuffer(state["accumulator"], dtype=self.plan.lane).copy()
        self._inputs = set(state["inputs"])
        self._u1, self._u2, self._u3 = (tuple(part) for part in state["sets"])
        self._consents = dict(state["consents"])
        self._reveals = {s: (d, tuple(g)) for s, d, g in state["reveals"]}
        if self._u1:
            self._graph = draw(self.plan, self._graph_seed)
        self._check_dump_age()
