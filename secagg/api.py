"""The library in a few lines: :func:`aggregate`, and the same parties over bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from secagg_protocols.dumps import DUMP_FAULTS, read_dump
from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Aggregate, Done, Event, Send, Step
from secagg_protocols.floors import Floors
from secagg_protocols.journal import Journal, MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.ledger import InputLedger
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.paillier import KeyShare, PrivateKey
from secagg_protocols.paillier_sum import Client as PaillierClient
from secagg_protocols.paillier_sum import Holder
from secagg_protocols.paillier_sum import Server as PaillierServer
from secagg_protocols.party import Entropy
from secagg_protocols.plan import PaillierSum, Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.site import check_input
from secagg_protocols.wire import SERVER, Buffer

#: The parties of the protocols that a plan can name.
AnyClient = Client | PaillierClient
AnyServer = Server | PaillierServer

#: Called with (step, sender, recipient, bytes) for every message that is delivered.
Tap = Callable[[Step, str, str, bytes], None]
#: Called with (party, ciphertexts done, all of them) while one encrypts or opens.
Work = Callable[[str, int, int], None]


def client(
    plan: Plan,
    site: str,
    *,
    identity: Identity | None,
    session: bytes | str,
    round: int,
    model: Buffer | None,
    floors: Floors | None,
    journal: Journal,
    data: str = "",
    ledger: InputLedger | None = None,
    threads: int = 1,
    _entropy: Entropy | None = None,
) -> AnyClient:
    """The party of ``site`` in one round.

    identity: needed where the plan signs (``malicious-server``), else ``None``.
    session: names the run, 1 to 64 bytes. round: 0, 1, ...
    model: bytes of the broadcast model, or ``None`` to set it later with ``use_model``.
    floors: what this site insists on; ``None`` takes the plan as it is.
    journal: this site's own; a :class:`~secagg.FileJournal` where a restart must not forget.
    data: what this site calls its data set. The journal counts inputs per model, and compares
        sums of fixed data, by the site's name and this one, over sessions, epochs and keys: give
        the same data the same name always, and never one that a server proposes.
    ledger: the privacy budget of these data (:class:`secagg.dp.Ledger`, in the same journal),
        charged before a masked input is sent. Where it does not bear the input,
        :class:`~secagg.BudgetError`: nothing is sent, and the round goes on without this site.
    threads: cores that masking may use; the bytes do not depend on it.

    Raises :class:`~secagg.MisuseError` for a stranger, a wrong identity or a floor.
    """
    kind = PaillierClient if _is_paillier(plan) else Client
    return kind(
        plan,
        site_index(plan, site),
        identity=identity,
        session=session,
        round=round,
        model=model,
        floors=floors,
        journal=journal,
        data=data,
        ledger=ledger,
        threads=threads,
        entropy=_entropy,
    )


def server(
    plan: Plan,
    *,
    identity: Identity | None,
    session: bytes | str,
    round: int,
    model: Buffer | None,
    journal: Journal,
    threads: int = 1,
    _entropy: Entropy | None = None,
) -> AnyServer:
    """The aggregator of one round; arguments as for :func:`client`.

    threads: cores that removing the masks, or multiplying and opening, may use.
    """
    kind = PaillierServer if _is_paillier(plan) else Server
    return kind(
        plan,
        identity=identity,
        session=session,
        round=round,
        model=model,
        journal=journal,
        threads=threads,
        entropy=_entropy,
    )


def holder(
    plan: Plan,
    name: str,
    *,
    share: KeyShare | PrivateKey,
    identity: Identity | None,
    session: bytes | str,
    round: int,
    model: Buffer | None,
    floors: Floors | None,
    journal: Journal,
    threads: int = 1,
    _entropy: Entropy | None = None,
) -> Holder:
    """The party of a holder of decryption shares in one round of a Paillier sum.

    share: its share of the private key, or the key itself where the plan has one holder.
    floors: what it insists on, such as the smallest cohort.
    journal: its own: one product is opened in a round, whatever restarts.
    The other arguments as for :func:`client`.
    """
    if not _is_paillier(plan):
        raise MisuseError("only a Paillier sum has holders", rule="protocol")
    names = [known for known, _ in plan.roster.holders]
    if name not in names:
        raise MisuseError(f"{name!r} is no holder of the roster", rule="roster-member")
    return Holder(
        plan,
        plan.clients + names.index(name),
        share=share,
        floors=floors,
        identity=identity,
        session=session,
        round=round,
        model=model,
        journal=journal,
        threads=threads,
        entropy=_entropy,
    )


def _is_paillier(plan: object) -> bool:
    if not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
    return isinstance(plan.protocol, PaillierSum)


def load(
    data: Buffer,
    plan: Plan,
    identity: Identity | None,
    journal: Journal,
    *,
    floors: Floors | None = None,
    ledger: InputLedger | None = None,
    model: Buffer | None = None,
    share: KeyShare | PrivateKey | None = None,
    threads: int = 1,
) -> AnyClient | AnyServer | Holder:
    """The party that ``dump()`` wrote, ready to go on.

    ``floors=None`` keeps the floors with which the party was made. A party that had a ``ledger``
    is refused without it. ``model`` sets the broadcast
    model where the dump was taken before it was known. It cannot undo one: the journal answers
    for what was already sent. A holder needs its ``share`` again. ``threads`` as for
    :func:`client`.
    """
    state = read_dump(data, plan)
    try:
        common: dict[str, Any] = {
            "identity": identity,
            "session": state["session"],
            "round": state["round"],
            "model": None,
            "journal": journal,
            "threads": threads,
        }
        holders = range(plan.clients, plan.clients + len(plan.roster.holders))
        roles = {"client": range(plan.clients), "server": (SERVER,), "holder": holders}
        kept_data = state["state"]["data"] if state["role"] == "client" else ""
        if type(state["session"]) is not bytes or state["index"] not in roles[state["role"]]:
            raise ValueError
    except DUMP_FAULTS:
        raise MisuseError("the dump is not one of this version", rule="dump") from None
    party: AnyClient | AnyServer | Holder
    paillier = _is_paillier(plan)
    if state["role"] == "client":
        site = PaillierClient if paillier else Client
        party = site(plan, state["index"], floors=floors, data=kept_data, ledger=ledger, **common)
    elif state["role"] == "holder":
        if share is None:
            raise MisuseError("a holder is loaded with its share of the key", rule="own-share")
        party = Holder(plan, state["index"], share=share, floors=floors, **common)
    else:
        party = PaillierServer(plan, **common) if paillier else Server(plan, **common)
    party.restore(state)
    if model is not None:
        party.use_model(model, party.contexts.parameters)
    return party


def site_index(plan: Plan, site: str) -> int:
    """Place of a site in the plan's roster; :class:`MisuseError` for a stranger."""
    if not isinstance(plan, Plan):
        raise MisuseError(f"a Plan is needed, not a {type(plan).__name__}", rule="arguments")
    try:
        return plan.roster.index(site)
    except KeyError:
        raise MisuseError(f"{site!r} is not in the roster", rule="roster-member") from None


def aggregate(
    plan: Plan,
    vectors: Mapping[str, Any],
    *,
    weights: Mapping[str, int] | None = None,
    drop: Mapping[int | str, Iterable[str]] | None = None,
    identities: Mapping[str, Identity] | None = None,
    shares: Mapping[str, KeyShare | PrivateKey] | None = None,
    session: bytes | str = "local",
    round: int = 0,
    model: bytes = b"",
    threads: int = 1,
    tap: Tap | None = None,
    progress: Work | None = None,
) -> Aggregate:
    """Run all parties of one round in memory, every byte encoded and decoded.

    vectors: one array of shape ``(plan.length,)`` per site; a site without one takes no part.
    weights: integer weight per site, 1 where absent.
    drop: step (1 to 5, or its name) -> sites that fall silent before sending it.
    identities: by name, ``"server"`` included; needed by ``malicious-server`` plans.
    shares: by holder, for a Paillier sum; a holder without one takes no part.
    threads: cores that masking and unmasking, or encrypting and opening, may use.
    progress: called with (party, ciphertexts done, all of them) during a Paillier sum.

    Raises :class:`~secagg.ThresholdError` where too few sites are left.
    """
    for what, value in (
        ("vectors", vectors),
        ("weights", weights),
        ("drop", drop),
        ("identities", identities),
        ("shares", shares),
    ):
        if value is not None and not isinstance(value, Mapping):
            raise MisuseError(
                f"{what} is a mapping, not a {type(value).__name__}", rule="arguments"
            )
    weights = weights or {}
    identities = identities or {}
    for name in (*vectors, *weights):
        site_index(plan, name)
    gone = _schedule(plan, drop or {})
    common: dict[str, Any] = {
        "session": session,
        "round": round,
        "model": model,
        "threads": threads,
    }
    hub = server(plan, identity=identities.get(SERVER_NAME), journal=MemoryJournal(), **common)
    clients = {
        name: client(
            plan,
            name,
            identity=identities.get(name),
            floors=None,
            journal=MemoryJournal(),
            **common,
        )
        for name in plan.roster.names
        if name in vectors
    }
    inputs = {name: (vectors[name], weights.get(name, 1)) for name in clients}
    for x, weight in inputs.values():
        # Every vector is checked before anybody sends anything.
        check_input(plan, x, weight)
    holders = {
        name: holder(
            plan,
            name,
            share=share,
            identity=identities.get(name),
            floors=None,
            journal=MemoryJournal(),
            **common,
        )
        for name, share in (shares or {}).items()
    }
    if progress is not None:
        told: Work = progress
        for name, party in (*clients.items(), *holders.items()):
            if isinstance(party, (PaillierClient, Holder)):
                party.progress = lambda done, most, name=name: told(name, done, most)
    return run_round(hub, clients, inputs, silent=gone, tap=tap, holders=holders)


def _schedule(plan: Plan, drop: Mapping[int | str, Iterable[str]]) -> dict[str, Step]:
    """Site or holder -> first step that it does not send."""
    gone: dict[str, Step] = {}
    paillier = _is_paillier(plan)
    for key, names in drop.items():
        try:
            step = Step.of(key)
        except ValueError as error:
            raise MisuseError(str(error), rule="drop-schedule") from None
        if isinstance(names, str) or not isinstance(names, Iterable):
            raise MisuseError(
                f"drop maps a step to a list of sites, not to {names!r}", rule="drop-schedule"
            )
        for name in names:
            holds = paillier and name in dict(plan.roster.holders)
            if not holds:
                site_index(plan, name)
            if paillier and step != (Step.REVEAL if holds else Step.INPUT):
                raise MisuseError(
                    f"{name} sends nothing in step {step.label!r} of a Paillier sum: sites send "
                    "'input', holders 'reveal'",
                    rule="drop-schedule",
                )
            gone[name] = min(step, gone.get(name, step))
    return gone


def run_round(
    hub: AnyServer,
    clients: Mapping[str, AnyClient],
    inputs: Mapping[str, tuple[Any, int]],
    *,
    silent: Mapping[str, Step],
    tap: Tap | None = None,
    holders: Mapping[str, Holder] | None = None,
) -> Aggregate:
    """Deliver messages step by step, in order, until the server is done.

    inputs: vector and weight per site. Each is submitted when the site's turn to send it has
    come; a site that falls silent before then submits nothing.
    """
    parties: dict[str, AnyClient | Holder] = {**clients, **(holders or {})}
    steps = hub.steps

    def heard(name: str, step: Step) -> bool:
        return name not in silent or silent[name] > step

    def up(events: list[Event], name: str, step: Step) -> None:
        for event in events:
            if isinstance(event, Send) and heard(name, step):
                data = event.data
                if tap is not None:
                    tap(step, name, SERVER_NAME, data)
                down(hub.receive(data, sender=name), step, None)

    def down(events: list[Event], step: Step, following: Step | None) -> None:
        for event in events:
            if isinstance(event, Send) and event.to in parties:
                name, data = event.to, event.data
                if tap is not None:
                    tap(step, SERVER_NAME, name, data)
                if following is not None and name not in clients and not heard(name, following):
                    continue  # what a silent holder computes would be heard by nobody
                answer = parties[name].receive(data, sender=SERVER_NAME)
                if following == Step.INPUT and heard(name, following):
                    answer += clients[name].submit(*inputs[name])
                if following is not None:
                    up(answer, name, following)

    hub.start()
    for name, party in clients.items():
        answer = party.start()
        if steps[0] == Step.INPUT and heard(name, Step.INPUT):
            answer += party.submit(*inputs[name])
        up(answer, name, steps[0])
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        events = hub.close_step()
        down(events, step, following)
        for event in events:
            if isinstance(event, Done) and event.aggregate is not None:
                return event.aggregate
    raise RuntimeError("a round ended without a result")  # pragma: no cover - a bug of ours


__all__ = ["aggregate", "client", "holder", "load", "run_round", "server"]
