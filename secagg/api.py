"""The library in a few lines: :func:`aggregate`, and the same parties over bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from secagg_protocols.errors import MisuseError
from secagg_protocols.events import Aggregate, Done, Event, Send, Step
from secagg_protocols.floors import Floors
from secagg_protocols.journal import Journal, MemoryJournal
from secagg_protocols.keys import Identity
from secagg_protocols.ledger import InputLedger
from secagg_protocols.masked_sum import Client, Server
from secagg_protocols.masked_sum.client import check_input
from secagg_protocols.party import DUMP_FAULTS, Entropy, read_dump
from secagg_protocols.plan import Plan
from secagg_protocols.roster import SERVER_NAME
from secagg_protocols.wire import SERVER, Buffer

#: Called with (step, sender, recipient, bytes) for every message that is delivered.
Tap = Callable[[Step, str, str, bytes], None]


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
) -> Client:
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
    return Client(
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
) -> Server:
    """The aggregator of one round; arguments as for :func:`client`.

    threads: cores that removing the masks may use.
    """
    return Server(
        plan,
        identity=identity,
        session=session,
        round=round,
        model=model,
        journal=journal,
        threads=threads,
        entropy=_entropy,
    )


def load(
    data: Buffer,
    plan: Plan,
    identity: Identity | None,
    journal: Journal,
    *,
    floors: Floors | None = None,
    ledger: InputLedger | None = None,
    model: Buffer | None = None,
    threads: int = 1,
) -> Client | Server:
    """The party that ``dump()`` wrote, ready to go on.

    ``floors=None`` keeps the floors with which the party was made. A party that had a ``ledger``
    is refused without it. ``model`` sets the broadcast
    model where the dump was taken before it was known. It cannot undo one: the journal answers
    for what was already sent. ``threads`` as for :func:`client`.
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
        roles = {"client": range(plan.clients), "server": (SERVER,)}
        kept_data = state["state"]["data"] if state["role"] == "client" else ""
        if type(state["session"]) is not bytes or state["index"] not in roles[state["role"]]:
            raise ValueError
    except DUMP_FAULTS:
        raise MisuseError("the dump is not one of this version", rule="dump") from None
    party: Client | Server
    if state["role"] == "client":
        party = Client(plan, state["index"], floors=floors, data=kept_data, ledger=ledger, **common)
    else:
        party = Server(plan, **common)
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
    session: bytes | str = "local",
    round: int = 0,
    model: bytes = b"",
    threads: int = 1,
    tap: Tap | None = None,
) -> Aggregate:
    """Run all parties of one round in memory, every byte encoded and decoded.

    vectors: one array of shape ``(plan.length,)`` per site; a site without one takes no part.
    weights: integer weight per site, 1 where absent.
    drop: step (1 to 5, or its name) -> sites that fall silent before sending it.
    identities: by name, ``"server"`` included; needed by ``malicious-server`` plans.
    threads: cores that masking and unmasking may use.

    Raises :class:`~secagg.ThresholdError` where too few sites are left.
    """
    for what, value in (
        ("vectors", vectors),
        ("weights", weights),
        ("drop", drop),
        ("identities", identities),
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
    return run_round(hub, clients, inputs, silent=gone, tap=tap)


def _schedule(plan: Plan, drop: Mapping[int | str, Iterable[str]]) -> dict[str, Step]:
    """Site -> first step that it does not send."""
    gone: dict[str, Step] = {}
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
            site_index(plan, name)
            gone[name] = min(step, gone.get(name, step))
    return gone


def run_round(
    hub: Server,
    clients: Mapping[str, Client],
    inputs: Mapping[str, tuple[Any, int]],
    *,
    silent: Mapping[str, Step],
    tap: Tap | None = None,
) -> Aggregate:
    """Deliver messages step by step, in order, until the server is done.

    inputs: vector and weight per site. Each is submitted when the site's turn to send it has
    come; a site that falls silent before then submits nothing.
    """

    def heard(name: str, step: Step) -> bool:
        return name not in silent or silent[name] > step

    def up(events: list[Event], name: str, step: Step) -> None:
        for event in events:
            if isinstance(event, Send) and heard(name, step):
                data = event.data
                if tap is not None:
                    tap(step, name, SERVER_NAME, data)
                hub.receive(data, sender=name)

    hub.start()
    for name, party in clients.items():
        up(party.start(), name, Step.ADVERTISE)
    steps = [s for s in Step if s != Step.CONSENT or hub.plan.signed]
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        for event in hub.close_step():
            if isinstance(event, Done):
                if event.aggregate is not None:
                    return event.aggregate
            elif isinstance(event, Send):
                name, data = event.to, event.data
                if tap is not None:
                    tap(step, SERVER_NAME, name, data)
                answer = clients[name].receive(data, sender=SERVER_NAME)
                if following == Step.INPUT and heard(name, following):
                    answer += clients[name].submit(*inputs[name])
                if following is not None:
                    up(answer, name, following)
    raise RuntimeError("a round ended without a result")  # pragma: no cover - a bug of ours


__all__ = ["aggregate", "client", "load", "run_round", "server"]
