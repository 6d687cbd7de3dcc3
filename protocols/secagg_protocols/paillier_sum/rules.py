"""The rule table of the Paillier sum. ``protocols/specs/rules.md`` is made from it."""

from __future__ import annotations

from typing import Final

from ..rules import Rule
from ..shared_rules import HUB_RULES, PARTY_RULES, SITE_RULES

_TWO = "two sets of sites opened: their difference is the vectors of a few sites"
_RELATED = (
    "a ciphertext copied or made from another site's, so that the sum's high digits are that "
    "site's vector"
)
_MALFORMED = "a number with which products and proofs mean nothing (0, a multiple of a prime)"

PLAN_RULES: Final = (
    Rule(
        "paillier-fields",
        "plan",
        "plan",
        "key and colluding_holders have their types",
        "PlanError",
        "confusion of values",
    ),
    Rule(
        "key-holders",
        "plan",
        "plan",
        "the roster names as many holders as the key is shared among",
        "PlanError",
        "shares that nobody, or a stranger, answers for",
    ),
    Rule(
        "holder-threshold",
        "plan",
        "plan",
        "0 <= colluding_holders < threshold",
        "PlanError",
        "colluding holders open single vectors",
    ),
    Rule(
        "one-opening",
        "plan",
        "plan",
        "malicious server: 2 threshold > holders + colluding_holders",
        "PlanError",
        _TWO,
    ),
    Rule(
        "knowledge-proofs",
        "plan",
        "plan",
        "malicious server: sites prove that they know what they encrypted",
        "PlanError",
        _RELATED,
    ),
    Rule(
        "modulus-proof",
        "plan",
        "plan",
        "malicious server: the key comes with a valid proof about its modulus; any proof is valid",
        "PlanError",
        "a modulus that can be factored (CVE-2023-33241 and its like)",
    ),
    Rule(
        "fixed-data-holders",
        "plan",
        "plan",
        "no fixed data",
        "PlanError",
        "sums of the same vectors that nobody compares",
    ),
)

CLIENT_RULES: Final = (
    *SITE_RULES,
    Rule(
        "step-order",
        "client",
        "every message",
        "the result comes after the input, and once",
        "PeerError",
        "a result before its time",
    ),
    Rule(
        "result-cohort",
        "client",
        "reveal",
        "at least min_survivors sites are in the sum",
        "PeerError",
        "a cohort so small that the sum is somebody's vector",
    ),
    Rule(
        "dump-age",
        "client",
        "load",
        "dump and journal are of one time, but for the input",
        "MisuseError",
        "a rolled-back state",
    ),
)

SERVER_RULES: Final = (
    *HUB_RULES,
    Rule(
        "step-order",
        "server",
        "every message",
        "the message is one awaited, and the first",
        "PeerError",
        "a replayed input that counts twice; late inputs",
        also=("repeated",),
    ),
    Rule(
        "ciphertext",
        "server",
        "input",
        "every ciphertext c: 0 < c < n^2, coprime to n",
        "DecodeError",
        _MALFORMED,
    ),
    Rule(
        "repeated",
        "server",
        "input",
        "no ciphertext twice in a round",
        "PeerError",
        _RELATED,
    ),
    Rule(
        "knowledge",
        "server",
        "input",
        "the site proves that it knows every plaintext, for this round and under its own name",
        "DecodeError",
        _RELATED,
    ),
    Rule(
        "opened-product",
        "server",
        "reveal",
        "a holder answers for the product that it was asked for",
        "PeerError",
        "shares of another vector",
        also=("share-proof",),
    ),
    Rule(
        "share-proof",
        "server",
        "reveal",
        "a holder proves that its shares are made with its share of the key",
        "PeerError",
        "wrong shares that change the sum",
    ),
    Rule(
        "opening-proof",
        "server",
        "reveal",
        "a holder of the whole key proves that it opened the product",
        "PeerError",
        "a sum of the holder's choosing",
    ),
    Rule(
        "slot-range",
        "server",
        "reveal",
        "every slot is one that sums of honest slots can be",
        "PeerError",
        "an input beyond its slot that changes its neighbour",
    ),
    Rule(
        "dump-age",
        "server",
        "load",
        "dump and journal are of one time, but for the last closed step",
        "MisuseError",
        "a rolled-back state",
    ),
)

HOLDER_RULES: Final = (
    Rule(
        "floors",
        "holder",
        "construction",
        "the plan is above this holder's floors",
        "MisuseError",
        "parameter downgrade by the server",
    ),
    Rule(
        "own-share",
        "holder",
        "construction",
        "the share is the one that the plan's key verifies for this holder",
        "MisuseError",
        "answers that nobody can use; a share under another's name",
    ),
    Rule(
        "step-order",
        "holder",
        "every message",
        "nothing after the answer, no message again",
        "PeerError",
        "a replayed input that counts twice; a second opening",
        also=("repeated",),
    ),
    Rule(
        "equivocation",
        "holder",
        "every message",
        "one message of a site, one request of the server",
        "EquivocationError",
        _TWO,
        also=("step-order",),
    ),
    Rule(
        "ciphertext",
        "holder",
        "input",
        "every ciphertext c: 0 < c < n^2, coprime to n",
        "DecodeError",
        _MALFORMED,
    ),
    Rule(
        "repeated",
        "holder",
        "input",
        "no ciphertext twice in a round",
        "PeerError",
        _RELATED,
    ),
    Rule(
        "knowledge",
        "holder",
        "input",
        "the site proves that it knows every plaintext, for this round and under its own name",
        "DecodeError",
        _RELATED,
    ),
    Rule(
        "cohort",
        "holder",
        "input",
        "at least min_survivors sites are to be opened",
        "PeerError",
        "a cohort so small that the sum is somebody's vector",
    ),
    Rule(
        "given",
        "holder",
        "input",
        "the sites to open are those whose signed ciphertexts came",
        "PeerError",
        "enough sites on the list, and fewer in the product",
    ),
    Rule(
        "product",
        "holder",
        "input",
        "the server's product is the product of what the sites signed",
        "PeerError",
        "one site's ciphertexts in place of the sum",
    ),
    Rule(
        "dump-age",
        "holder",
        "load",
        "dump and journal are of one time, but for the opening",
        "MisuseError",
        "a rolled-back state",
    ),
)

RULES: Final = (*PLAN_RULES, *PARTY_RULES, *CLIENT_RULES, *SERVER_RULES, *HOLDER_RULES)

__all__ = ["CLIENT_RULES", "HOLDER_RULES", "PARTY_RULES", "PLAN_RULES", "RULES", "SERVER_RULES"]
