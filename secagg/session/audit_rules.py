"""What an audit looks for, rule by rule, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from secagg_protocols.kinds import Kind
from secagg_protocols.rules import Rule
from secagg_protocols.wire import Header

#: Model hash and parameters of a round.
Stated = tuple[bytes, bytes]

_SERVER, _SIGNER, _NOBODY = "server", "signer", "nobody"
_TWO_LISTS = "two survivor lists of one round: both secrets of a site are asked for"

#: ``party`` is who is convicted; ``nobody`` marks what contradicts without convicting.
AUDIT_RULES: Final = (
    Rule("malformed", _SIGNER, "frame", "an authentic frame has the form that its kind has",
         "conviction", "content that ends honest parties"),
    Rule("advert-keys", _SIGNER, "frame", "an advertised key is new and not of low order",
         "conviction", "masks that anybody can compute"),
    Rule("input-padding", _SIGNER, "frame", "unused bits of a masked input are zero",
         "conviction", "a covert channel"),
    Rule("advert-list", _SERVER, "frame", "adverts come from the plan's graph",
         "conviction", "a neighbourhood of colluding sites"),
    Rule("advert-relay", _SERVER, "frame", "relayed adverts carry their sites' signatures",
         "conviction", "keys of the server's own"),
    Rule("advert-distinct", _SERVER, "frame", "no key is relayed under two names",
         "conviction", "one party counted twice"),
    Rule("cohort", _SERVER, "frame", "stated sets have the size that they list and that is agreed",
         "conviction", "a cohort so small that the sum is somebody's vector"),
    Rule("result-tail", _SERVER, "frame", "a result is the one whose digest is signed beside it",
         "conviction", "another sum than the one signed"),
    Rule("equivocation", _SIGNER, "pair", "one message for one step, recipient and round",
         "conviction", _TWO_LISTS),
    Rule("one-model", _SERVER, "pair", "one model in one round",
         "conviction", "a crafted model for one site"),
    Rule("one-advert", _SERVER, "pair", "every site is relayed the same advert of a site",
         "conviction", "a different key for every neighbour"),
    Rule("one-cohort", _SERVER, "pair", "every site is told the same sets (complete graph)",
         "conviction", _TWO_LISTS),
    Rule("nested-sets", _SERVER, "pair", "survivors shared, and sharers advertised",
         "conviction", "a survivor whose shares nobody holds"),
    Rule("one-result", _SERVER, "pair", "every site is told the same result",
         "conviction", "different sums for different sites"),
    Rule("consent-signers", _SERVER, "pair", "exactly share_threshold survivors consent",
         "conviction", _TWO_LISTS),
    Rule("consent-relay", _SERVER, "pair", "relayed consents are signed, on the announced list",
         "conviction", _TWO_LISTS),
    Rule("agreed-relay", _SERVER, "pair", "relayed agreements are signed, on the signed result",
         "conviction", "an agreement that never was"),
    Rule("agreement", _NOBODY, "pair", "sites agree on the result that the server signed",
         "doubt", "different sums for different sites"),
    Rule("replay", _NOBODY, "replay", "the server's messages follow from what it received",
         "doubt", "a site excluded, or a wrong sum announced"),
    Rule("outcome", _NOBODY, "replay", "the server's lists follow from what it received",
         "doubt", "blame for a site that did nothing"),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Signed:
    """One authentic frame. ``tail`` is ``None`` where only its hash was recorded or kept.

    round: -1 for frames of the session. context: what its trailer is bound to. stated: the model
    and parameters in that context, for kinds of the round context. header: ``None`` where the
    bytes are not a header of this kind. where: file and entry.
    """

    kind: Kind
    signer: int
    recipient: int
    round: int
    context: bytes
    stated: Stated | None
    digest: bytes
    head: bytes
    header: Header | None
    tail: bytes | None
    tail_hash: bytes
    tail_size: int
    trailer: bytes
    where: str

    @property
    def name(self) -> str:
        """The kind for people: ``Survivors``."""
        return self.kind.header.__name__


@dataclass(frozen=True, slots=True)
class Conviction:
    """Who is convicted, by which rule, and the signed frames that show it."""

    party: str
    rule: str
    round: int
    text: str
    proof: tuple[Signed, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "party": self.party,
            "rule": self.rule,
            "round": None if self.round < 0 else self.round,
            "text": self.text,
            "signatures": [_shown(frame) for frame in self.proof],
        }


@dataclass(frozen=True, slots=True)
class Doubt:
    """Accounts that contradict each other where no signature tells whose is false."""

    rule: str
    round: int
    text: str
    suspects: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rule": self.rule,
            "round": None if self.round < 0 else self.round,
            "text": self.text,
            "suspects": list(self.suspects),
        }


def _shown(frame: Signed) -> dict[str, Any]:
    return {
        "message": frame.name,
        "digest": frame.digest.hex(),
        "signature": frame.trailer.hex(),
        "found": frame.where,
    }
