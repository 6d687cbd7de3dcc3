"""The site's end under Flower: a mod, the outermost one."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any, Final

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from secagg.integrations import envelope
from secagg.integrations.folder import PartyFolder
from secagg.integrations.layout import Layout
from secagg.integrations.site import Contribution, SiteDesk, Withheld
from secagg.session import Wanted
from secagg_protocols.errors import MisuseError
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import load_plan
from secagg_protocols.roster import SERVER_NAME

from .records import (
    EVALUATE,
    KEY,
    QUERY,
    TRAIN,
    Setting,
    arrays_of,
    category,
    encoded_anew,
    model_of,
    of_user,
    pack,
    settings_of,
    unpack,
)

log: Final = logging.getLogger("secagg.integrations")

#: Of the site's ``--node-config``: the party folder.
FOLDER: Final = "secagg"
#: Of the site's ``--node-config``: the metric that it is weighted by, if not ``num-examples``.
WEIGHT: Final = "secagg-weight"
#: In a simulation: the folder that holds the folders of all parties.
SIMULATION: Final = "SECAGG_SIMULATION_FOLDER"
#: As Flower's own mods say that they did not let a message pass.
PRECONDITION: Final = 6

UNPROTECTED: Final = "this node answers under secure aggregation only [unprotected]"
NOT_IN_ROUND: Final = "this node is not in this round"


def secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Let the app's results out through a secure sum only. Outermost in ``mods=[secagg_mod, ...]``
    of ``@app.train`` and ``@app.evaluate``.

    Which party the node is, its plan, limits, budget and journal come from the folder that
    ``--node-config 'secagg="FOLDER"'`` names. A message that asks for results without protection is
    refused, and whatever goes wrong below is answered with one text, the reason being logged here:
    Flower would send an exception's text to the server. Messages of type query pass, and no others.
    """
    kind = category(message)
    if kind == QUERY:
        return call_next(message, context)
    if kind not in {TRAIN, EVALUATE}:
        # Apps of Flower's older interface give their model to `get_parameters`.
        log.warning("refused a message of type %r [unprotected]", kind)
        return Message(Error(PRECONDITION, UNPROTECTED), reply_to=message)
    try:
        order = unpack(message.content) if message.has_content() else None
        if order is None:
            log.warning("refused a message that asks for results without protection [unprotected]")
            return Message(Error(PRECONDITION, UNPROTECTED), reply_to=message)
        return _answer(message, context, call_next, order)
    except (Exception, SystemExit):
        log.exception("this node could not answer as a party")
        return Message(Error(PRECONDITION, NOT_IN_ROUND), reply_to=message)


def _answer(
    message: Message, context: Context, call_next: ClientAppCallable, order: bytes
) -> Message:
    task = category(message)
    if envelope.unpack(envelope.Request, order).task != task:
        raise MisuseError(f"an order of another task in a message to {task}", rule="setting")
    desk = SiteDesk(party_folder(context), memory=ContextStore(context))
    user = of_user(message.content)

    def work(wanted: Wanted) -> Contribution:
        who = f"{desk.name}: round {wanted.round}"
        return _contribution(message, context, call_next, user, desk.plan_for(order), who)

    # Without content of the strategy the site was not sampled: it stays in the session.
    answer = desk.answer(order, work if user else None)
    return Message(RecordDict({KEY: pack(answer.reply)}), reply_to=message)


def _contribution(
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
    user: RecordDict,
    plan: Plan,
    who: str,
) -> Contribution:
    """Run the app on the strategy's records, and take its reply as this site's vector."""
    setting = Setting.unpack(message.content)
    own = str(context.node_config.get(WEIGHT, "num-examples"))
    if plan.max_weight > 1 and setting.weight != own:
        # A weight of the server's choosing could be 0, or small, at all sites but one.
        raise MisuseError(f"this node is weighted by {own!r} and nothing else", rule="setting")
    # Before the app may change anything.
    model = model_of(category(message), user)
    kind, run_config = str(message.metadata.message_type), dict(context.run_config)
    settings = settings_of(kind, user, setting, run_config)
    for name, record in user.array_records.items():
        user[name] = encoded_anew(record)
    base = arrays_of(_record(user, setting.arrays)) if setting.arrays else {}
    layout = Layout.of(base)
    setting.metrics.check(plan, layout)
    message.content = user
    reply = call_next(message, context)
    if reply.has_error():
        log.warning("%s: the app answered with an error: %s", who, reply.error.reason)
        raise Withheld("the app answered with an error")
    values = _metrics(reply.content)
    new = arrays_of(_only(reply.content)) if setting.arrays else {}
    vector = setting.metrics.join(layout.difference(new, base), values, plan, who)
    return Contribution(vector, _weight(values, setting.weight, plan), model, settings)


def _record(content: RecordDict, name: str) -> ArrayRecord:
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        raise MisuseError("the message has no model under the name it gives", rule="setting")
    return record


def _only(content: RecordDict) -> ArrayRecord:
    found = list(content.array_records.values())
    if len(found) != 1:
        raise MisuseError(
            f"the app's reply holds {len(found)} ArrayRecords; the sum takes one", rule="reply"
        )
    return found[0]


def _metrics(content: RecordDict) -> MetricRecord:
    found = list(content.metric_records.values())
    if len(found) != 1:
        raise MisuseError(
            f"the app's reply holds {len(found)} MetricRecords; the sum takes one", rule="reply"
        )
    return found[0]


def _weight(values: MetricRecord, name: str, plan: Plan) -> int:
    """A site's weight. Where the plan says that weights are 1, every site counts the same."""
    if plan.max_weight == 1:
        return 1
    value: Any = values.get(name)
    if isinstance(value, list) or value is None or float(value) != int(value):
        raise MisuseError(f"the app's reply has no whole number {name!r}", rule="reply")
    return int(value)


class ContextStore:
    """A party's sealed state in the run's Context, which Flower keeps at the node and moves with
    the node's work. Only sealed bytes are put here, since the app sees the Context too."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def get(self, name: str) -> bytes | None:
        """The bytes under a name."""
        record = self._state.get(KEY)
        value = record.get(name) if isinstance(record, ConfigRecord) else None
        return value if isinstance(value, bytes) else None

    def put(self, name: str, data: bytes) -> None:
        """Keep bytes under a name."""
        record = self._state.get(KEY)
        if not isinstance(record, ConfigRecord):
            record = self._state[KEY] = ConfigRecord()
        record[name] = data

    def delete(self, name: str) -> None:
        """Forget bytes."""
        record = self._state.get(KEY)
        if isinstance(record, ConfigRecord) and name in record:
            del record[name]


def party_folder(context: Context) -> PartyFolder:
    """The folder of the party that a node is.

    From the node's own ``--node-config``; in a simulation, whose nodes have none, from the
    environment of whoever started it: partition i is the i-th party of the plan in
    ``FOLDER/server/plan.toml``, sites first. Never from the run's configuration, which is the
    server's. :class:`MisuseError` (``party-folder``) where neither says which party this is.
    """
    own = context.node_config.get(FOLDER)
    if isinstance(own, str) and own:
        return PartyFolder(own)
    parent, number = os.environ.get(SIMULATION), context.node_config.get("partition-id")
    if not parent or not isinstance(number, int):
        raise MisuseError(
            f"this node does not know which party it is: give --node-config '{FOLDER}=\"FOLDER\"', "
            f"or set {SIMULATION} in a simulation",
            rule="party-folder",
        )
    try:
        text = (Path(parent) / SERVER_NAME / "plan.toml").read_text(encoding="utf-8")
    except OSError as error:
        raise MisuseError(f"{error.filename}: {error.strerror}", rule="party-folder") from None
    roster = load_plan(text).roster
    names = [name for name, _ in (*roster.sites, *roster.holders)]
    if not 0 <= number < len(names):
        raise MisuseError(
            f"partition {number} is none of the {len(names)} parties of the plan",
            rule="party-folder",
        )
    return PartyFolder(Path(parent) / names[number])


__all__ = ["FOLDER", "SIMULATION", "ContextStore", "party_folder", "secagg_mod"]
