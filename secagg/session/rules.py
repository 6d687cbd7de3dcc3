"""The rule table of sessions. Rounds have their own: ``secagg_protocols/masked_sum/rules.py``."""

from __future__ import annotations

from typing import Final

from secagg_protocols.rules import Rule

#: At holders, in sessions over Paillier sums. Without ``[order-sequence]`` the product is gone.
HOLDER_RULES: Final = (
    Rule(
        "order-once",
        "holder",
        "every order",
        "one exchange has one order",
        "EquivocationError",
        "a server that asks a holder two things and denies one of them",
    ),
    Rule(
        "order-sequence",
        "holder",
        "every order",
        "(round, slot) comes after that of the last order",
        "PeerError",
        "a round that is gone through again",
        also=("structure",),
    ),
    Rule(
        "one-model",
        "holder",
        "every message",
        "a round has one model and one set of parameters",
        "EquivocationError",
        "a server that says of what it has opened that it was for another model",
    ),
)

RULES: Final = (
    Rule(
        "release-policy",
        "party",
        "construction",
        "the plan limits the inputs of one model, or says that the data are fixed",
        "MisuseError",
        "sums of one model over many cohorts, whose differences are single vectors",
    ),
    Rule(
        "order-once",
        "client",
        "every order",
        "one exchange has one order",
        "EquivocationError",
        "a server that asks one site two things and denies one of them",
    ),
    Rule(
        "order-sequence",
        "client",
        "every order",
        "(round, slot) comes after that of the last order",
        "PeerError",
        "a round that is gone through again",
        also=("journal-retired",),
    ),
    Rule(
        "order-clip",
        "client",
        "input",
        "an adaptive clip lies in the plan's range, and follows from the last round's sum where "
        "the site was sent that",
        "PeerError",
        "a clip of the server's choosing that drowns the sum in noise, or leaves nothing of it",
    ),
    Rule(
        "stated-model",
        "client",
        "input",
        "the model given is the one whose digest the server signed",
        "MisuseError",
        "a site that is masked for another model than the others, unnoticed",
    ),
    Rule(
        "agreed-count",
        "client",
        "agreements",
        "exactly share_threshold agreements",
        "PeerError",
        "two results, each confirmed by a few",
    ),
    Rule(
        "agreed-members",
        "client",
        "agreements",
        "agreements come from survivors",
        "PeerError",
        "two results, one confirmed by sites that are in no sum",
    ),
    Rule(
        "agreed-signatures",
        "client",
        "agreements",
        "every agreement is on the digest that this site was sent",
        "AuthenticationError",
        "two results, one for each half of the sites",
    ),
    Rule(
        "agree-digest",
        "server",
        "agreements",
        "a site agrees on the digest that it was sent",
        "PeerError",
        "a site that makes all the others' check fail",
        also=("agreed-signatures",),
    ),
)
