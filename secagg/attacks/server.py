"""What a server can open that tells its sites different things (rows 1 to 4)."""

from __future__ import annotations

from collections.abc import Iterator

from .attack import Attack, Evidence, Keys, Transcript
from .reading import Reading, views


class _OpensVectors(Attack):
    """Shared: reads each view of the transcript and claims what can be opened in it."""

    def run(self, transcript: Transcript, keys: Keys) -> Evidence:
        """Vectors by view and victim, ``"3:s1"``, or ``"s1"`` where there is one view."""
        clear = transcript.public.get("protocol") == "plain"
        vectors: dict[str, list[int]] = {}
        for prefix, reading in views(transcript, keys):
            found = in_clear(reading) if clear else self.found(reading)
            for victim, vector in found:
                vectors[prefix + victim] = vector
        note = "" if vectors else "no site has both its secrets in reach"
        return Evidence(vectors=vectors, note=note)

    def found(self, reading: Reading) -> Iterator[tuple[str, list[int]]]:
        """(victim, vector) of all that this attack opens in one view."""
        names = reading.plan.roster.names
        for site in reading.both_secrets():
            vector = reading.open_vector(site)
            if vector is not None:
                yield names[site], vector


def in_clear(reading: Reading) -> Iterator[tuple[str, list[int]]]:
    """A plain sum: the input is the vector."""
    names = reading.plan.roster.names
    for site in sorted(reading.inputs):
        ring = reading.masked(site)
        if ring is not None:
            yield names[site], reading.lifted(ring)


class ShareBoth(_OpensVectors):
    """Row 1: ask for both shares of one site."""

    number = 1
    id = "share-both"
    title = "Asking for both shares of one site"
    source = "Bonawitz et al., CCS 2017, section 4"
    adversary = "malicious server, with the sites that the plan lets collude"
    sees = "every message of the round, and what its colluding sites hold"
    tests = (
        "client.equivocation",
        "client.step-order",
        "party.journal-once",
        "feature: shares are erased once they were used",
    )
    law = "a site answers one survivor list in its life per round, so no list follows another"
    remedy = (
        "Keep each site's journal on a disk of its own, outside what the server or a snapshot can "
        "roll back. A site whose journal was lost sits out the round."
    )


class SplitView(_OpensVectors):
    """Row 2: tell half of the sites that the victim survived, the others that it dropped."""

    number = 2
    id = "split-view"
    title = "Two survivor lists"
    source = "Bonawitz et al., CCS 2017, section 6"
    adversary = "malicious server, with the sites that the plan lets collude"
    sees = "every message of the round, and what its colluding sites hold"
    tests = (
        "plan.one-survivor-set",
        "client.consent-count",
        "client.consent-signatures",
        "feature: share threshold",
    )
    law = "it succeeds exactly where 2t <= n + c; on a sparse graph where 2t <= k + 1 + c_v"
    remedy = (
        "Use the malicious-server threat: its plans need 2t > n + c, and its sites reveal only "
        "after t signatures on one list. Under the semi-honest threat choose t above (n + c) / 2."
    )


class VoteSplitting(_OpensVectors):
    """Row 3: another list for every site, so that the votes remove all but a few sites."""

    number = 3
    id = "vote-splitting"
    title = "A list for each site"
    source = "derived here from Bonawitz et al., CCS 2017, section 6"
    adversary = "malicious server, with the sites that the plan lets collude"
    sees = "every message of the round, and what its colluding sites hold"
    tests = ("client.consent-count", "client.consent-signatures")
    law = (
        "without consents the smallest isolated honest set has h (1 - (n - m) / (t - c)) sites, "
        "rounded up, h = n - c, m = min_survivors; with them at least m - c"
    )
    remedy = (
        "A high share threshold is not enough: use the malicious-server threat, whose sites "
        "compare the list by signatures before they reveal anything."
    )

    def found(self, reading: Reading) -> Iterator[tuple[str, list[int]]]:
        """The sum over the sites that could not be removed, named together: ``"s1+s4"``."""
        names = reading.plan.roster.names
        held = reading.keys.values
        present = [s for s in sorted(reading.inputs) if f"{names[s]}/mask" not in held]
        left = [site for site in present if reading.mask_seed(site) is None]
        if not left:
            left = [site for site in present if reading.self_seed(site) is not None][:1]
        total = reading.open_sum(left) if left else None
        if total is not None:
            yield "+".join(names[site] for site in left), total


class LateUpload(_OpensVectors):
    """Row 4: a site is declared dropped, its pair masks are recovered, and its input is there."""

    number = 4
    id = "late-upload"
    title = "A site wrongly declared missing"
    source = "Bonawitz et al., CCS 2017, section 4 (double masking)"
    adversary = "malicious server, with the sites that the plan lets collude"
    sees = "every message of the round, the input that it pretends not to have included"
    tests = ("feature: self mask",)
    law = "with its pair masks removed an input is still masked by the site's own mask"
    remedy = (
        "Nothing to do: the second mask is not an option of any plan. What remains for a server "
        "is to leave sites out, which the survivors of the round show."
    )

    def found(self, reading: Reading) -> Iterator[tuple[str, list[int]]]:
        """Each input whose pair masks are known, less its self mask where that can be opened."""
        names = reading.plan.roster.names
        for site in sorted(reading.inputs):
            if f"{names[site]}/mask" in reading.keys.values or reading.mask_seed(site) is None:
                continue
            vector = reading.open_vector(site)
            if vector is None:
                ring = reading.without_pairs([site])
                vector = None if ring is None else reading.lifted(ring)
            if vector is not None:
                yield names[site], vector


__all__ = ["LateUpload", "ShareBoth", "SplitView", "VoteSplitting", "in_clear"]
