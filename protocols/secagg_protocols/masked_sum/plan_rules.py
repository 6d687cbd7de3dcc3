"""The rules of a plan, a part of the table in :mod:`.rules`."""

from __future__ import annotations

from typing import Final

from ..rules import Rule

SPLIT = "two-list attack (Bonawitz et al., CCS 2017): both secrets of one site are opened"
SMALL = "a cohort so small that the sum is somebody's vector"

PLAN_RULES: Final = (
    Rule(
        "field-types",
        "plan",
        "plan",
        "every field has its type",
        "PlanError",
        "confusion of values",
    ),
    Rule(
        "stage-kinds",
        "plan",
        "plan",
        "every stage is one that a plan can name",
        "PlanError",
        "a stage whose bounds nobody checked",
    ),
    Rule(
        "length", "plan", "plan", "length within 1..2^32", "PlanError", "empty or unbounded vectors"
    ),
    Rule("weight", "plan", "plan", "max_weight within 1..2^32", "PlanError", "unbounded weights"),
    Rule(
        "inputs-limit",
        "plan",
        "plan",
        "max_inputs_per_model within 1..2^16, or none",
        "PlanError",
        "a limit that no input meets, or that a site cannot count to",
    ),
    Rule(
        "threat", "plan", "plan", "a known threat", "PlanError", "a defence switched off by a typo"
    ),
    Rule("suite", "plan", "plan", "a known suite", "PlanError", "downgrade of primitives"),
    Rule(
        "security-bits",
        "plan",
        "plan",
        "20 to 128 bits",
        "PlanError",
        "a sparse graph without security",
    ),
    Rule(
        "honest-survivors",
        "plan",
        "plan",
        "clients - max_dropouts - colluding >= min_honest >= 2",
        "PlanError",
        SMALL,
    ),
    Rule(
        "insiders",
        "plan",
        "plan",
        "colluding >= 1 where sites receive the sum",
        "PlanError",
        "a site that subtracts its own vector",
    ),
    Rule(
        "graph-shape",
        "plan",
        "plan",
        "neighbours even and below clients - 1, or clients - 1",
        "PlanError",
        "a graph that is not regular",
        also=("graph-parameters",),
    ),
    Rule(
        "fixed-data-graph",
        "plan",
        "plan",
        "fixed data: neighbours is clients - 1",
        "PlanError",
        "sites that are not told who is in a sum, and so cannot compare two",
    ),
    Rule(
        "share-threshold",
        "plan",
        "plan",
        "2 <= share_threshold <= holders; complete graph: colluding < share_threshold <= "
        "min_survivors",
        "PlanError",
        "colluding sites rebuild secrets; rounds that cannot finish",
    ),
    Rule(
        "one-survivor-set",
        "plan",
        "plan",
        "malicious server or fixed data: 2 share_threshold > clients + colluding",
        "PlanError",
        SPLIT,
    ),
    Rule(
        "sparse-threat",
        "plan",
        "plan",
        "sparse graphs only under semi-honest",
        "PlanError",
        "a server that draws the graph it likes",
    ),
    Rule(
        "sparse-security",
        "plan",
        "plan",
        "the exact bound gives security_bits",
        "PlanError",
        "captured neighbours, split graphs (Bell et al., CCS 2020)",
    ),
    Rule(
        "privacy-noise",
        "plan",
        "plan",
        "a plan that claims epsilon or delta has noise",
        "PlanError",
        "a claim of privacy that nothing stands behind",
    ),
    Rule(
        "noise-shares",
        "plan",
        "plan",
        "noise that some number of sites make up together has as many honest survivors",
        "PlanError",
        "less noise than the privacy claim counts on",
    ),
    Rule(
        "noise-central",
        "plan",
        "plan",
        "noise of the server's only under the semi-honest threat",
        "PlanError",
        "noise that nobody adds",
    ),
    Rule(
        "modulus",
        "plan",
        "plan",
        "the sum of all clients fits the ring, with noise but for 2^-wrap_bits",
        "PlanError",
        "a sum that wraps silently",
    ),
)
