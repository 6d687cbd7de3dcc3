"""declearn's two configurations: what a user passes as ``secagg=``, and the setup that they run."""

from __future__ import annotations

import dataclasses
import logging
import os
import secrets
from typing import Any, Final

from declearn.communication.api import NetworkClient, NetworkServer
from declearn.messaging import CancelTraining, Error, Message, SerializedMessage
from declearn.secagg.api import SecaggConfigClient, SecaggConfigServer

from secagg.integrations.folder import PartyFolder
from secagg_protocols.errors import (
    DecodeError,
    MisuseError,
    PeerError,
    PlanError,
    ThresholdError,
)
from secagg_protocols.plan import Plan
from secagg_protocols.plan_file import dump_plan
from secagg_protocols.roster import SERVER_NAME

from .agreement import (
    DIGEST_SIZE,
    NONCE_SIZE,
    PairMasks,
    advertise,
    check_advert,
    check_adverts,
    check_query,
    check_ready,
    query_digest,
    ready_digest,
    setup_context,
)
from .decrypter import ZeroSumDecrypter
from .encrypter import ZeroSumEncrypter
from .limits import Limits
from .messages import ZeroSumAdvert, ZeroSumAdverts, ZeroSumQuery, ZeroSumReady
from .ring import Ring
from .view import view_of, watch

log: Final = logging.getLogger("secagg.integrations")
#: What declearn passes where its user gave neither bits nor a clip.
_DECLEARN_DEFAULTS: Final = (64, 1e5)

Folder = str | os.PathLike[str] | PartyFolder


@dataclasses.dataclass(init=False)
class SecAggSite(SecaggConfigClient[ZeroSumEncrypter, ZeroSumQuery]):
    """A site's ``secagg=``: the path of its party folder, and nothing else.

    It stands in the field that declearn calls ``id_keys``, since the site's identity and the keys
    that it trusts are in the folder. From a file or a dictionary:
    ``{"secagg_type": "secagg", "id_keys": "parties/north"}``.

    Where the folder pins a plan, it is checked here: :class:`PlanError` (``zero-plan-kind``),
    :class:`MisuseError` with the rules of the folder, the policy and the limits.
    """

    secagg_type = "secagg"

    id_keys: Any

    def __init__(self, id_keys: Folder) -> None:
        self.folder = _folder(id_keys)
        self.id_keys = str(self.folder.path)
        self._encrypter: ZeroSumEncrypter | None = None
        self._limits: dict[bytes, Limits] = {}
        pinned = (self.folder.path / "plan.toml").is_file()
        if pinned or not (self.folder.path / "roster.toml").is_file():
            self._prepare("")

    @classmethod
    def parse_id_keys(cls, field: Any, inputs: Any) -> Any:
        """declearn's own parser would read the path as that of a file of keys."""
        return inputs

    def _prepare(self, proposal: str) -> tuple[Plan, Ring, Limits]:
        plan = self.folder.plan(proposed=proposal)
        if self.folder.name not in plan.roster.names:
            raise MisuseError(f"the roster has no site {self.folder.name!r}", rule="roster-member")
        numbers = Ring(plan)
        # A setup that is repeated goes on counting.
        if plan.digest not in self._limits:
            self._limits[plan.digest] = Limits(self.folder, plan)
        return plan, numbers, self._limits[plan.digest]

    async def setup_encrypter(
        self, netwk: NetworkClient, query: SerializedMessage[ZeroSumQuery]
    ) -> ZeroSumEncrypter:
        """Take part in a setup; declearn calls it for each query of the server.

        A site that refuses raises what was wrong, and its client ends: the server hears that it
        does not take part, and not why. The setup before is over in any case.
        """
        if self._encrypter is not None:
            self._encrypter.close()
        try:
            self._encrypter = await self._set_up(netwk, query)
        except PlanError as error:
            # declearn logs errors of these types and goes on, without protection where fairness
            # is set up next. This client ends.
            raise MisuseError(f"the plan cannot be used: {error}", rule=error.rule) from error
        except (KeyError, RuntimeError, ValueError) as error:
            raise PeerError(
                f"the setup was broken off ({type(error).__name__})",
                rule="setup-broken",
                sender=SERVER_NAME,
            ) from error
        return self._encrypter

    async def _set_up(
        self, netwk: NetworkClient, query: SerializedMessage[ZeroSumQuery]
    ) -> ZeroSumEncrypter:
        view = view_of(netwk)
        opened = _read(query, ZeroSumQuery, SERVER_NAME)
        if type(opened.proposal) is not str:
            raise DecodeError("a proposal is text", rule="zero-format", sender=SERVER_NAME)
        plan, numbers, limits = self._prepare(opened.proposal)
        nonce = check_query(plan, opened.plan, opened.nonce, opened.signature)
        told = view.digest
        name, identity = self.folder.name, self.folder.identity
        exchange, own = advertise(plan, identity, nonce, told)
        await netwk.send_message(ZeroSumAdvert(site=name, view=told, advert=own))

        answer = _read(await netwk.recv_message(), ZeroSumAdverts, SERVER_NAME)
        keys = check_adverts(plan, name, own, nonce, told, answer.adverts)
        context = setup_context(plan.digest, nonce, told, answer.adverts)
        masks = PairMasks(plan, name, exchange, keys, context)
        signed = identity.sign(ready_digest(context, plan.roster.index(name)))
        await netwk.send_message(ZeroSumReady(signature=signed))
        log.info("secure aggregation is set up over %d sites", plan.clients)
        return ZeroSumEncrypter(numbers, masks, view, limits)


@dataclasses.dataclass(init=False)
class SecAggServer(SecaggConfigServer[ZeroSumDecrypter, ZeroSumQuery]):
    """The server's ``secagg=``: the path of its party folder (``identity.key``, ``plan.toml``).

    propose: send the plan along, for sites whose folders pin the roster and a policy only.
    bitsize, clipval: declearn's names for what the plan decides; :class:`PlanError`
    (``declearn-quantiser``) for other values than the plan's.

    From a file or a dictionary: ``{"secagg_type": "secagg", "folder": "parties/server"}``.
    """

    secagg_type = "secagg"

    bitsize: int
    clipval: float
    folder: str
    propose: bool

    def __init__(
        self,
        folder: Folder,
        propose: bool | None = None,
        bitsize: int | None = None,
        clipval: float | None = None,
    ) -> None:
        self._party = _folder(folder)
        self.folder = str(self._party.path)
        self.propose = bool(propose)
        self._plan = self._party.plan()
        self._check_server()
        self._ring = Ring(self._plan)
        self._check_declearn_quantiser(bitsize, clipval)
        self.bitsize, self.clipval = self._ring.bits, self._ring.clip
        self._nonce = b""

    @classmethod
    def default_parser(cls, field: Any, inputs: Any) -> Any:
        """Every field is a plain value; none is the path of a file to be read."""
        return inputs

    def _check_server(self) -> None:
        self._party.check_member(self._plan)
        if self._party.name != SERVER_NAME:
            raise MisuseError(
                f"the folder is {self._party.name!r}'s and not the server's", rule="roster-member"
            )

    def _check_declearn_quantiser(self, bitsize: int | None, clipval: float | None) -> None:
        ours = (self._ring.bits, self._ring.clip)
        for at, (given, field) in enumerate(((bitsize, "bitsize"), (clipval, "clipval"))):
            if given not in (None, ours[at], _DECLEARN_DEFAULTS[at]):
                raise PlanError(
                    f"the plan says {ours[at]:g}", rule="declearn-quantiser", field=field
                )

    def prepare_secagg_setup_query(self) -> ZeroSumQuery:
        """A query with 16 fresh bytes, signed."""
        plan = self._plan
        self._nonce = secrets.token_bytes(NONCE_SIZE)
        return ZeroSumQuery(
            bitsize=self.bitsize,
            clipval=self.clipval,
            plan=plan.digest,
            nonce=self._nonce,
            signature=self._party.identity.sign(query_digest(plan.digest, self._nonce)),
            proposal=dump_plan(plan) if self.propose else "",
        )

    async def finalize_secagg_setup(
        self, netwk: NetworkServer, clients: set[str] | None = None
    ) -> ZeroSumDecrypter:
        """Collect the adverts of all sites, relay them, and wait until all accepted them.

        Errors, which declearn wraps: :class:`ThresholdError` (``zero-cohort``) unless the clients
        are all sites of the roster; :class:`PeerError` with ``refused``, ``zero-site``,
        ``zero-view``, ``zero-advert``, ``zero-ready``.
        """
        plan, nonce = self._plan, self._nonce
        names = set(netwk.client_names if clients is None else clients)
        self._check_zero_cohort(len(names))
        replies = await netwk.wait_for_messages(names)
        found: dict[int, ZeroSumAdvert] = {}
        client_of: dict[str, int] = {}
        for client, reply in replies.items():
            message = _read(reply, ZeroSumAdvert, client)
            client_of[client] = index = self._site_index(message, client)
            if index in found:
                raise PeerError("two clients have one name", rule="zero-site", sender=client)
            found[index] = message
        sites = [found[index] for index in range(plan.clients)]
        view = self._one_view(sites)
        for index, site in enumerate(sites):
            check_advert(plan, nonce, view, index, site.advert)
        adverts = [site.advert for site in sites]
        await netwk.broadcast_message(ZeroSumAdverts(adverts=adverts), names)

        context = setup_context(plan.digest, nonce, view, adverts)
        for client, reply in (await netwk.wait_for_messages(names)).items():
            ready = _read(reply, ZeroSumReady, client)
            check_ready(plan, context, client_of[client], ready.signature)
        log.info("secure aggregation is set up over %d sites", plan.clients)
        return ZeroSumDecrypter(self._ring)

    def _check_zero_cohort(self, have: int) -> None:
        if have != self._plan.clients:
            raise ThresholdError(
                "a sum is over all sites of the roster, and declearn asks for another number of "
                "clients",
                rule="zero-cohort",
                step="setup",
                have=have,
                need=self._plan.clients,
            )

    def _site_index(self, message: ZeroSumAdvert, client: str) -> int:
        names = self._plan.roster.names
        if type(message.site) is not str or message.site not in names:
            raise PeerError("the roster has no such site", rule="zero-site", sender=client)
        return names.index(message.site)

    def _one_view(self, sites: list[ZeroSumAdvert]) -> bytes:
        views = {site.view for site in sites if type(site.view) is bytes}
        if len(views) != 1 or len(next(iter(views))) != DIGEST_SIZE:
            raise PeerError(
                "sites were told different things before the setup",
                rule="zero-view",
                suspects=self._plan.roster.names,
            )
        return views.pop()


def _folder(path: Folder) -> PartyFolder:
    return path if isinstance(path, PartyFolder) else PartyFolder(path)


def _read(message: SerializedMessage[Any], kind: type[Any], sender: str) -> Any:
    """A message of the expected kind. Rules: ``setup-cancelled``, ``refused``, ``zero-format``."""
    what: type[Message] = message.message_cls
    if issubclass(what, CancelTraining):
        raise PeerError("the setup was cancelled", rule="setup-cancelled", sender=sender)
    if issubclass(what, Error):
        raise PeerError(f"{sender} does not take part", rule="refused", sender=sender)
    if not issubclass(what, kind):
        raise DecodeError("another message was expected", rule="zero-format", sender=sender)
    try:
        return message.deserialize()
    except Exception:  # noqa: BLE001 - declearn's decoders raise whatever a class raises
        raise DecodeError("a message cannot be read", rule="zero-format", sender=sender) from None


watch()

__all__ = ["SecAggServer", "SecAggSite"]
