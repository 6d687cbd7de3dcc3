"""Rules that the parties of every sum protocol apply, for the tables of each protocol.

``also=("structure",)`` marks a rule without which the attack finds no key to use.
"""

from __future__ import annotations

from typing import Final

from .rules import Rule

PARTY_RULES: Final = (
    Rule(
        "session",
        "party",
        "construction",
        "1 to 64 bytes, round within 0..2^63-1",
        "MisuseError",
        "contexts that collide",
    ),
    Rule(
        "identity",
        "party",
        "construction",
        "the identity is the one the roster pins",
        "MisuseError",
        "a party under another's name",
    ),
    Rule(
        "round-clip",
        "party",
        "construction, use_model",
        "the parameters of a round with an adaptive clip state one within the plan's range",
        "MisuseError",
        "a clip of the server's choosing that drowns the sum in noise, or leaves nothing of it",
    ),
    Rule(
        "limits",
        "party",
        "every message",
        "no larger than the plan allows for its kind",
        "DecodeError",
        "memory exhaustion",
        also=("tail-length",),
    ),
    Rule(
        "route",
        "party",
        "every message",
        "the sender may send this, to this party",
        "AuthenticationError",
        "misdelivery, reflection, a sender other than the transport's",
    ),
    Rule(
        "trailer",
        "party",
        "every message",
        "digest or pinned signature over context and content",
        "AuthenticationError",
        "changed bytes; replay from another plan, session, round, model",
    ),
    Rule(
        "canonical",
        "party",
        "every message",
        "the header is the one encoding of its content",
        "DecodeError",
        "two encodings of one message",
    ),
    Rule(
        "tail-length",
        "party",
        "every message",
        "exactly the bytes that plan and header give",
        "DecodeError",
        "left-over or missing bytes",
    ),
)

#: Of a site, whatever protocol sums its vectors.
SITE_RULES: Final = (
    Rule(
        "floors",
        "client",
        "construction",
        "the plan is above this site's floors",
        "MisuseError",
        "parameter downgrade by the server",
    ),
    Rule(
        "model-allowed",
        "client",
        "construction, use_model",
        "the broadcast model is one that this site's floors list, where they list any",
        "MisuseError",
        "a crafted model that writes single records into the update",
    ),
    Rule(
        "input-once",
        "client",
        "input",
        "one vector per round",
        "MisuseError",
        "two vectors under one mask",
    ),
    Rule(
        "inputs-per-model",
        "client",
        "input",
        "at most the plan's and the floor's inputs for one model, whatever session, epoch or key",
        "MisuseError",
        "retries with varying cohorts (disaggregation)",
    ),
    Rule(
        "inputs-full",
        "client",
        "input",
        "inputs for at most 2^16 models of one data set",
        "MisuseError",
        "a server that fills the journal, one model after the other",
    ),
    Rule(
        "ledger-given",
        "client",
        "input",
        "data whose inputs were charged to a privacy ledger are given with one",
        "MisuseError",
        "inputs that a budget never hears of, because a setting was forgotten once",
    ),
    Rule(
        "fixed-data-plan",
        "client",
        "input",
        "all plans over these data are of fixed data, or none is",
        "ReleaseError",
        "a sum of the same vectors that is compared with none",
    ),
    Rule(
        "fixed-roster",
        "client",
        "input",
        "fixed data: twice the smallest share_threshold of all plans over these data exceeds all "
        "their sites + the most colluding",
        "ReleaseError",
        "rosters of parts of the sites, whose sums are compared by nobody: what they leave of the "
        "whole is one site",
    ),
    Rule(
        "equivocation",
        "client",
        "every message",
        "one message of the server per step",
        "EquivocationError",
        "a server that sends two versions",
        also=("step-order",),
    ),
    Rule(
        "result-digest",
        "client",
        "reveal",
        "the sum has the stated digest",
        "PeerError",
        "different sums to different sites",
    ),
)

#: Of a server, whatever protocol it sums by.
HUB_RULES: Final = (
    Rule(
        "equivocation",
        "server",
        "every message",
        "one message of a site per step",
        "EquivocationError",
        "a site that sends two versions",
        also=("step-order",),
    ),
    Rule(
        "enough",
        "server",
        "every close",
        "min_survivors sites; as many as it takes to open",
        "ThresholdError",
        "a sum over too few",
    ),
    Rule(
        "sum-range",
        "server",
        "reveal",
        "without noise, the sum is one that honest inputs can have",
        "PeerError",
        "an input outside its bounds that wraps the sum",
    ),
)
