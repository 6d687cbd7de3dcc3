"""What the scenes of a cheating server have in common."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import secagg
from secagg_protocols.events import Step

from .. import columns, statistics
from ..adversaries.server import Behaviour, Equivocate, PassConsents
from ..adversaries.votes import lists, splits
from ..arena.table import Claims, Table, plain_claims
from ..arena.world import people
from ..finding import Finding, Measure, Verdict
from ..process import LabError
from ..scene import Lab

#: Views that travel in one transcript, at most.
BATCH: Final = 200
#: Why rows about lists do not apply to a Paillier sum.
NO_LISTS: Final = (
    "Holders open one set of ciphertexts and reveal nothing about single sites; two sets of "
    "holders that are told two sets of sites are row 29."
)
#: What to say of an active server under a plan that does not cover one.
OUTSIDE: Final = (
    " A server that breaks the protocol is outside the semi-honest threat of this plan; the "
    "malicious-server threat covers it."
)
#: The rules that compare lists.
CONSENTS: Final = ("consent-count", "consent-signatures")


def small_plans(lab: Lab) -> Iterator[tuple[int, int, int]]:
    """(n, c, dropouts) of every plan with 2t > n + c that few sites can have: :func:`which`."""
    for n in (3, 4, 5) if lab.full else (3, 4):
        for c, drops in itertools.product((0, 1, 2), range(n)):
            t = (n + c) // 2 + 1
            possible = t <= n - drops and n - drops - c >= 2
            if possible and (lab.full or n == 3 or c == 1):
                yield n, c, drops


def which(lab: Lab) -> str:
    """The sites of :func:`small_plans`, for people."""
    return "3 to 5 sites" if lab.full else "3 sites, and of 4 sites one of which colludes"


def ranges(lab: Lab) -> dict[str, int | float | str]:
    """The sites, colluding sites and dropouts of :func:`small_plans`, as they were run."""
    names = ("n", "c", "dropouts")
    found = dict(zip(names, zip(*small_plans(lab), strict=True), strict=True))
    return {name: f"{min(x)}..{max(x)}" for name, x in found.items()}


def combined(lab: Lab) -> str:
    """Which lists of earlier steps :func:`every_view` splits, and what it does not combine."""
    both = "up to four sites" if lab.full else "3 sites"
    return (
        "The lists of who advertised and of who shared are split as well, each with every common "
        f"list of survivors; for {both} split lists of who shared meet split lists of survivors. "
        "Not combined are split lists of who advertised with other split lists"
        + (
            ", and two split lists for five sites."
            if lab.full
            else ", and two split lists for 4 sites."
        )
    )


def plan_for(column: str, n: int, c: int, drops: int, t: int = 0, **changes: Any) -> secagg.Plan:
    """A plan of the complete graph; its share threshold is the recommended one where none is."""
    protocol = secagg.MaskedSum(share_threshold=t or (n + c) // 2 + 1, neighbours=n - 1)
    fields: dict[str, Any] = {
        "colluding": c,
        "max_dropouts": drops,
        "sites_receive": False,
        "protocol": protocol,
    }
    return columns.plan(column, n, **(fields | changes))


def recommended_sparse(length: int = 5) -> secagg.Plan:
    """What ``Plan.recommend`` makes of 66 sites, 2 colluding, 3 dropouts: a sparse graph."""
    return secagg.Plan.recommend(
        people(66)[0],
        length=length,
        stages=(secagg.Integers(0, 1000),),
        threat="semi-honest",
        colluding=2,
        max_dropouts=3,
    )


def table(lab: Lab, plan: secagg.Plan, colluding: Iterable[int], *label: Any, **more: Any) -> Table:
    """A table whose inputs and secrets follow from the cell's seed and the label."""
    vectors = lab.inputs(plan.clients, plan.length, 1000, *label)
    return Table(plan, vectors, colluding=colluding, seed=lab.digest("sites", *label), **more)


def sizes(claims: Claims, truth: Claims) -> list[int]:
    """How many sites each claim is about, of those claims that are exactly right."""
    found = []
    for label, vector in claims.items():
        names = label.split("+")
        rows = zip(*(truth[name] for name in names), strict=True)
        if vector == [sum(row) for row in rows]:
            found.append(len(names))
    return found


def named(rules: Iterable[str]) -> tuple[str, ...]:
    """Rules as the report names them."""
    whose = {rule: "party" if rule.startswith("journal") else "client" for rule in rules}
    return tuple(sorted(f"{party}.{rule}" for rule, party in whose.items()))


def rows(vectors: Any, label: str, names: Sequence[str]) -> list[int]:
    """The sum of the vectors that a claim is about, before any noise."""
    chosen = [names.index(name) for name in label.split("+")]
    found: list[int] = vectors[chosen].sum(axis=0).tolist()
    return found


def residual(made: Table, claims: Iterable[Claims], sites: int) -> Measure:
    """What is left of right claims beside the vectors: the sites' own noise, and no more."""
    noise = made.plan.pipeline.noise
    errors = [
        found - true
        for claim in claims
        for label, vector in claim.items()
        if sizes({label: vector}, made.truth)
        for found, true in zip(vector, rows(made.vectors, label, made.names), strict=True)
    ]
    if noise is None or not errors:
        raise LabError("there is no noise to measure")
    measured = sum(error * error for error in errors) / len(errors)
    predicted = float(noise.variance(sites))
    spread = predicted * math.sqrt(2 / len(errors))
    if not statistics.within(measured, predicted, spread):
        raise LabError(f"noise of variance {measured:.1f} is left, {predicted:.1f} was expected")
    low, high = statistics.interval(measured, spread)
    return Measure(
        name="standard deviation of the noise that is left in a coordinate",
        value=math.sqrt(measured),
        low=math.sqrt(max(low, 0.0)),
        high=math.sqrt(high),
        predicted=math.sqrt(predicted),
        law=f"the own noise of {counted(sites, 'site')}, and nobody else's",
    )


def counted(number: int, thing: str) -> str:
    """How many of a thing, for people: "1 site", "2 sites"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def in_plain(lab: Lab) -> Finding:
    """The control of all: without masks the server is handed what it is after."""
    plan = columns.plan("plain", 5)
    claims, truth = plain_claims(lab, plan, lab.inputs(5, 5, 1000))
    right = len(sizes(claims, truth))
    return Finding(
        verdict=Verdict.LEAKS if right else Verdict.PREVENTED,
        tried="The server of an unprotected sum of 5 sites looks at what they send.",
        seen=f"It reads the vectors of {right} of 5 sites: they are what is sent.",
        trials=5,
        successes=right,
        parameters={"n": 5, "d": 5},
    )


def chunks(items: Iterable[Any], size: int = BATCH) -> Iterator[Sequence[Any]]:
    """The items, so many at a time."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk


#: How a server that lacks consents on a list can go on all the same.
POLICIES: Final = ("enough", "few", "filled")


def ways(told: Mapping[int, Iterable[int]], policy: str = "enough") -> list[Behaviour]:
    """Tell each site its list, and choose which consents it gets."""
    lies: list[Behaviour] = [Equivocate(Step.INPUT, {s: frozenset(x) for s, x in told.items()})]
    if policy != "enough":
        lies.append(PassConsents(filled=policy == "filled"))
    return lies


def assignments(n: int, c: int, least: int) -> list[tuple[frozenset[int], ...]]:
    """Every assignment of lists to honest sites: those that hold the site, and common ones."""
    known = lists(n, least)
    own = itertools.product(*([s for s in known if h in s] for h in range(c, n)))
    return list(dict.fromkeys((*own, *((s,) * (n - c) for s in known))))


def every_view(lab: Lab, column: str) -> Iterator[tuple[Table, list[list[int]]]]:
    """Every assignment of survivor lists, by plan of up to five sites, with what it opened.

    Yields the table and, per view, the sizes of the sets whose sum was claimed and right. Under
    signatures each is played three times: with consents where there are enough, with as few as
    there are, and filled up with consents on other lists. The lists of who advertised (U1) and
    of who shared (U2) are split in every way as well, each with every common list of survivors:
    for up to four sites, and for five with at most one dropout (three sites in a quick run). For
    up to four sites (three in a quick run) split U2 lists also meet every split of U3.
    """
    signed = column == "malicious-server"
    for n, c, drops in small_plans(lab):
        plan, known = plan_for(column, n, c, drops), lists(n, n - drops)
        honest = range(c, n)
        made = table(lab, plan, range(c), n, c, drops)
        told = (dict(zip(honest, each, strict=True)) for each in splits(n, c, n - drops))
        for chunk in chunks(told):
            for one, policy in itertools.product(chunk, POLICIES if signed else POLICIES[:1]):
                made.view(lambda _, one=one, policy=policy: ways(one, policy))  # type: ignore[misc]
            yield made, [sizes(found, made.truth) for found in made.claims(lab)]
        if n > (4 if lab.full else 3) and not (lab.full and drops < 2):
            continue
        common = [(u3,) * len(honest) for u3 in known]
        for step, ends in (
            (Step.ADVERTISE, common),
            (Step.SHARE, assignments(n, c, n - drops) if n <= 4 else common),
        ):
            made = table(lab, plan, range(c), n, c, drops, step.label, branch=step)
            # One split of each class under renaming, and with it every end: no pair is left out.
            pairs = itertools.product(splits(n, c, n - drops), ends)
            for chunk in chunks(pairs):
                for each, u3 in chunk:
                    lies = [
                        Equivocate(step, dict(zip(honest, each, strict=True))),
                        Equivocate(Step.INPUT, dict(zip(honest, u3, strict=True))),
                    ]
                    made.view(lambda _, lies=lies: lies)  # type: ignore[misc]
                yield made, [sizes(found, made.truth) for found in made.claims(lab)]


__all__ = [
    "BATCH",
    "CONSENTS",
    "NO_LISTS",
    "OUTSIDE",
    "POLICIES",
    "assignments",
    "chunks",
    "combined",
    "counted",
    "every_view",
    "in_plain",
    "named",
    "plan_for",
    "ranges",
    "recommended_sparse",
    "residual",
    "sizes",
    "small_plans",
    "table",
    "ways",
    "which",
]
