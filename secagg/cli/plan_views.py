"""What a plan costs and shows: bytes by step, and what each party sees."""

from __future__ import annotations

from typing import Any

from secagg_protocols.masked_sum.costs import RoundCost
from secagg_protocols.masked_sum.costs import round_cost as masked_cost
from secagg_protocols.paillier_sum.costs import RoundCost as PaillierCost
from secagg_protocols.paillier_sum.costs import round_cost as paillier_cost
from secagg_protocols.plan import MaskedSum, PaillierSum, Plan

from .common import counted, table

#: (party, what it sees, what stays hidden from it)
View = tuple[str, str, str]


def cost_of(made: Plan) -> RoundCost | PaillierCost:
    """Bytes of a round of a plan, by its protocol."""
    return masked_cost(made) if isinstance(made.protocol, MaskedSum) else paillier_cost(made)


def party_views(made: Plan, protocol: MaskedSum | PaillierSum | None = None) -> list[View]:
    """(party, what it sees, what stays hidden from it) under a plan.

    protocol: takes the plan as one of this protocol instead of its own.
    """
    chosen = made.protocol if protocol is None else protocol
    if isinstance(chosen, MaskedSum):
        return _masked_views(made, chosen)
    return _paillier_views(made, chosen)


def _masked_views(made: Plan, protocol: MaskedSum) -> list[View]:
    honest = made.min_survivors - made.colluding
    graph = "all sites" if made.complete else f"its {protocol.neighbours} neighbours"
    receive = "the sum and total weight, " if made.sites_receive else ""
    views = [
        (
            "server",
            "the sum and total weight; who took part and when they left; every masked vector; "
            "after the reveal the self mask of each survivor",
            f"each site's vector and weight: its masked vector is uniform in {made.wire_bits}-bit "
            "words, and under its pair masks it stays so",
        ),
        (
            "one site",
            f"its own vector; {receive}public keys and sealed shares of {graph}; which of them "
            "stayed",
            "every other site's vector; what the shares open, before "
            f"{protocol.share_threshold} holders reveal",
        ),
    ]
    if made.colluding:
        views.append(
            (
                f"server + {counted(made.colluding, 'site')}",
                "all of the above, and so the sum over the honest sites alone (the total less "
                "their own vectors)",
                f"which of at least {honest} honest sites contributed what",
            )
        )
    result = "; the result as it is returned" if made.sites_receive else ""
    views.append(
        (
            "network",
            "who talks when, message sizes, masked vectors, and the shares of step 5, from which "
            f"it can compute the sum{result} (use TLS to hide all this)",
            f"every site's vector; {_vouch(made)}",
        )
    )
    return views


def _paillier_views(made: Plan, protocol: PaillierSum) -> list[View]:
    honest = made.min_survivors - made.colluding
    t, holders, bad = protocol.share_threshold, protocol.holders, protocol.colluding_holders
    receive = "; the sum and total weight" if made.sites_receive else ""
    shared = holders > 1
    opening = "the holders' shares of the sum's decryption" if shared else "the opened sum"
    views = [
        (
            "server",
            f"the sum and total weight; who took part; every ciphertext; {opening}",
            "each site's vector and weight, while fewer than "
            f"{t} holders work with it (each ciphertext is encrypted under the holders' key)",
        ),
        (
            "one site",
            f"its own vector{receive}; the public key",
            "every other site's message, and so its vector",
        ),
    ]
    if shared:
        views.append(
            (
                f"fewer than {t} holders",
                "every ciphertext, and which site sent it; their shares of the key",
                "the sum, and each site's vector",
            )
        )
    views.append(
        (
            f"any {t} holders together" if shared else "the holder",
            "every vector, if they choose to open a single ciphertext"
            + ("" if shared else "; the sum in any case"),
            "nothing",
        )
    )
    if made.colluding or bad:
        others = [counted(made.colluding, "site")] if made.colluding else []
        others += [counted(bad, "holder")] if bad else []
        views.append(
            (
                " + ".join(["server", *others]),
                "all of the above but what it takes more holders for, and so the sum over the "
                "honest sites alone (the total less their own vectors)",
                f"which of at least {honest} honest sites contributed what",
            )
        )
    if shared:
        views.append(
            (
                "dealer of the key",
                "the whole key: every vector, from ciphertexts alone",
                "nothing, so whoever deals has to forget the key",
            )
        )
    opened = "shares" if shared else "the sum itself"
    result = "; the result as it is returned" if made.sites_receive else ""
    views.append(
        (
            "network",
            f"who talks when, message sizes, ciphertexts, and the holders' answers ({opened}; with "
            f"{t} of them anybody computes the sum){result} (use TLS to hide all this)",
            f"every site's vector; {_vouch(made)}",
        )
    )
    return views


def _vouch(made: Plan) -> str:
    return (
        "nothing it changes is accepted (every message is signed)"
        if made.signed
        else "it can change messages unless the transport authenticates (use TLS)"
    )


def cost_table(cost: RoundCost | PaillierCost) -> Any:
    """A line per step: bytes of a site, and of a holder where there are any."""
    if isinstance(cost, PaillierCost):
        return _paillier_table(cost)
    columns = ("step", "site sends", "site receives")
    shown = table("Bytes of one site in one round (nobody drops out)", *columns, numbers=(1, 2))
    for number, step in enumerate(cost.steps, 1):
        shown.add_row(f"{number} {step.step}", f"{step.site_sends:,}", f"{step.site_receives:,}")
    shown.add_section()
    sent = sum(step.site_sends for step in cost.steps)
    shown.add_row("total", f"{sent:,}", f"{cost.site_total - sent:,}")
    return shown


def _paillier_table(cost: PaillierCost) -> Any:
    columns = ("step", "site sends", "site receives", "holder receives", "holder sends")
    shown = table(
        "Bytes of one site and of one holder in one round (nobody drops out)",
        *columns,
        numbers=range(1, 5),
    )
    rows = [(s.site_sends, s.site_receives, s.holder_receives, s.holder_sends) for s in cost.steps]
    for step, row in zip(cost.steps, rows, strict=True):
        shown.add_row(step.step, *(f"{size:,}" for size in row))
    shown.add_section()
    shown.add_row("total", *(f"{sum(column):,}" for column in zip(*rows, strict=True)))
    return shown


def bytes_report(cost: RoundCost | PaillierCost) -> dict[str, Any]:
    """Bytes of a round, JSON-able."""
    steps: list[dict[str, Any]]
    if isinstance(cost, PaillierCost):
        more: dict[str, Any] = {
            "holder_total": cost.holder_total,
            "ciphertexts": cost.rows,
            "coordinates_in_a_ciphertext": cost.slots,
        }
        steps = [
            {
                "step": step.step,
                "site_sends": step.site_sends,
                "site_receives": step.site_receives,
                "holder_sends": step.holder_sends,
                "holder_receives": step.holder_receives,
            }
            for step in cost.steps
        ]
    else:
        more = {}
        steps = [
            {
                "step": step.step,
                "site_sends": step.site_sends,
                "site_receives": step.site_receives,
            }
            for step in cost.steps
        ]
    return {
        "steps": steps,
        "site_total": cost.site_total,
        "server_receives": cost.server_receives,
        "server_sends": cost.server_sends,
        "expansion": cost.expansion,
        **more,
    }


__all__ = ["View", "bytes_report", "cost_of", "cost_table", "party_views"]
