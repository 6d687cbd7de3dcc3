"""A server that tells sites different things, and what it can open by it."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

import secagg
from secagg.attacks.adversaries.votes import lists, splits
from secagg.attacks.arena.world import make_plan, sparse_plan
from secagg_protocols.masked_sum import Client, messages
from support.puppet import Puppet


def consent_plan(n: int, colluding: int, max_dropouts: int) -> secagg.Plan:
    threshold = (n + colluding) // 2 + 1
    return make_plan(
        n,
        length=2,
        colluding=colluding,
        max_dropouts=max_dropouts,
        sites_receive=False,
        protocol=secagg.MaskedSum(share_threshold=threshold, neighbours=n - 1),
    )


#: Every malicious-server plan that up to five sites can have.
PLANS = [
    (n, c, drops)
    for n in (3, 4, 5)
    for c in (0, 1, 2)
    for drops in range(n)
    if (n + c) // 2 + 1 <= n - drops and n - drops - c >= 2
]


def everybody(n: int) -> frozenset[int]:
    return frozenset(range(n))


def judge(puppet: Puppet) -> None:
    assert len(set(puppet.revealed.values())) <= 1
    assert puppet.both_secrets() == []


@pytest.mark.parametrize(
    ("n", "colluding", "drops"),
    [pytest.param(*p, marks=pytest.mark.slow if p == (5, 0, 2) else ()) for p in PLANS],
)
def test_split_survivors_reveal_one_set_at_most(n: int, colluding: int, drops: int) -> None:
    plan = consent_plan(n, colluding, drops)
    ready = Puppet(plan, range(colluding))
    ready.advertise(lambda i: everybody(n))
    ready.share(lambda i: everybody(n))
    dumps = {h: ready.parties[h].dump() for h in ready.honest}
    count = revealed = 0
    for told in splits(n, colluding, n - drops):
        puppet = Puppet(plan, range(colluding))
        puppet.adverts, puppet.inputs = ready.adverts, ready.inputs
        for c in puppet.colluding:
            puppet.parties[c] = ready.parties[c]
        for dealer in range(n):
            for holder in puppet.colluding:
                puppet.self_shares[dealer][holder] = ready.self_shares[dealer][holder]
                puppet.mask_shares[dealer][holder] = ready.mask_shares[dealer][holder]
        for h in puppet.honest:
            identity = puppet.identities[f"s{h}"]
            puppet.parties[h] = secagg.load(
                dumps[h], plan, identity, ready.parties[h].journal.copy()
            )
        named = dict(zip(puppet.honest, told, strict=True))
        puppet.survive(lambda i, named=named: named[i])
        puppet.confirm(lambda i, named=named: named[i])
        judge(puppet)
        count += 1
        revealed += bool(puppet.revealed)
    assert count
    # The honest case is among the splits, so something is revealed; and not always.
    assert revealed
    assert drops == 0 or revealed < count


SMALL = [case for case in PLANS if case[0] < 5]


def run_split(
    n: int,
    colluding: int,
    drops: int,
    step: str,
) -> int:
    """One server message type split in every way, U3 announced honestly in every way."""
    plan = consent_plan(n, colluding, drops)
    count = 0

    def same(i: int) -> frozenset[int]:
        return everybody(n)

    for told in splits(n, colluding, n - drops):
        for u3 in lists(n, n - drops):
            puppet = Puppet(plan, range(colluding))
            named = dict(zip(puppet.honest, told, strict=True))

            def split(i: int, named: dict[int, frozenset[int]] = named) -> frozenset[int]:
                return named.get(i, everybody(n))

            puppet.advertise(split if step == "adverts" else same)
            puppet.share(split if step == "sharers" else same)
            puppet.survive(lambda i, u3=u3: u3)
            puppet.confirm(lambda i, u3=u3: u3)
            judge(puppet)
            count += 1
    return count


@pytest.mark.parametrize("step", ["adverts", "sharers"])
@pytest.mark.parametrize(("n", "colluding", "drops"), SMALL)
def test_split_adverts_and_sharers_reveal_one_set_at_most(
    n: int, colluding: int, drops: int, step: str
) -> None:
    assert run_split(n, colluding, drops, step)


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except secagg.SecAggError:
        return True
    return False


@pytest.mark.parametrize(("n", "colluding", "drops"), [c for c in PLANS if c[0] == 5])
def test_split_sharers_among_five(n: int, colluding: int, drops: int) -> None:
    """Each site's answers are taken from the real site once for every (U2, U3) it can be told;
    what a split reveals is put together from them, for every split there is."""
    plan = consent_plan(n, colluding, drops)
    need = plan.protocol.share_threshold
    known = lists(n, n - drops)
    ready = Puppet(plan, range(colluding))
    ready.advertise(lambda i: everybody(n))
    dumps = {h: ready.parties[h].dump() for h in ready.honest}
    # (site, U2) -> the survivor sets that it would consent to.
    accepted: dict[tuple[int, frozenset[int]], set[frozenset[int]]] = {}
    for h in ready.honest:
        for u2 in known:
            if h not in u2:
                continue
            puppet = Puppet(plan, range(colluding))
            identity = puppet.identities[f"s{h}"]
            party = secagg.load(dumps[h], plan, identity, ready.parties[h].journal.copy())
            puppet.parties[h], puppet.sealed = party, ready.sealed
            puppet.honest = [h]
            tail = b"".join(ready.sealed[d][h] for d in sorted(u2) if d != h)
            header = messages.SharesFor(puppet.bitmap(u2), len(u2))
            puppet.say(messages.SHARES_FOR, h, header, tail)
            party.submit(puppet.vectors[h])
            shared = party.dump()
            takes: set[frozenset[int]] = set()
            for u3 in known:
                puppet.parties[h] = secagg.load(shared, plan, identity, party.journal.copy())
                puppet.consents = {}
                puppet.survive(lambda i, u3=u3: u3)
                if puppet.consents:
                    takes.add(u3)
            accepted[h, u2] = takes
            # A site consents exactly to the lists that hold it and lie within its U2.
            assert takes == {u3 for u3 in known if h in u3 and u3 <= u2}
    opened = 0
    options = [[u2 for u2 in known if h in u2] for h in ready.honest]
    for told in itertools.product(*options):
        named = dict(zip(ready.honest, told, strict=True))
        for u3 in known:
            agreeing = [h for h, u2 in named.items() if u3 in accepted[h, u2]]
            if len(agreeing) + len(ready.colluding & u3) < need:
                continue
            opened += 1
            # All honest reveals are on this one set, so a site's shares are of one kind; its
            # other kind is with the colluding sites alone, who are too few.
            for v in ready.honest:
                alive = colluding + sum(v in u3 for h in agreeing)
                gone = colluding + sum(v in named[h] - u3 for h in agreeing)
                assert alive < need or gone < need
    assert opened


@pytest.mark.parametrize(("n", "colluding", "drops"), [c for c in PLANS if c[0] == 5])
def test_split_adverts_among_five(n: int, colluding: int, drops: int) -> None:
    """A site that was told another U1 refuses the U2 that the others share, so whatever the
    split, those who go on were told the same."""
    plan = consent_plan(n, colluding, drops)
    rest = everybody(n)
    for u1 in lists(n, n - drops):
        puppet = Puppet(plan, range(colluding))
        puppet.advertise(lambda i, u1=u1: u1 if i in u1 else rest)
        for i in puppet.honest:
            for u2 in lists(n, n - drops):
                if i not in u1 or i not in u2:
                    continue
                dump = puppet.parties[i].dump()
                identity = puppet.identities[f"s{i}"]
                probe = secagg.load(dump, plan, identity, puppet.parties[i].journal.copy())
                true, puppet.parties[i] = puppet.parties[i], probe
                tail = bytes(96 * (len(u2) - 1))
                puppet.say(
                    messages.SHARES_FOR, i, messages.SharesFor(puppet.bitmap(u2), len(u2)), tail
                )
                went_on = not refused(lambda probe=probe, x=puppet.vectors[i]: probe.submit(x))
                assert went_on == (u2 <= u1)
                puppet.parties[i] = true


@pytest.mark.parametrize(("n", "colluding", "drops"), PLANS)
def test_any_consents_open_the_same_set(n: int, colluding: int, drops: int) -> None:
    """Different choices of consents to different sites are still consents on one set."""
    plan = consent_plan(n, colluding, drops)
    puppet = Puppet(plan, range(colluding))
    for step in (puppet.advertise, puppet.share, puppet.survive):
        step(lambda i: everybody(n))
    need = plan.protocol.share_threshold
    pool = sorted(puppet.consents)
    for c in puppet.colluding:
        puppet.consents[c] = (puppet.bitmap(everybody(n)), b"")
        pool = sorted({*pool, c})
    bitmap = puppet.bitmap(everybody(n))
    for site in puppet.honest:
        # A site's reveal follows from its own messages alone, so every choice at every site,
        # one site at a time, covers every way to split the choices over the sites.
        ready, reveals = puppet.parties[site].dump(), set()
        for signers in itertools.combinations(pool, need):
            party = puppet.parties[site]
            identity, journal = puppet.identities[f"s{site}"], party.journal.copy()
            puppet.parties[site] = secagg.load(ready, plan, identity, journal)
            tail = b"".join(
                puppet.colluder_consent(s, bitmap)
                if s in puppet.colluding
                else puppet.consents[s][1]
                for s in signers
            )
            frames = puppet.say(
                messages.CONSENTS, site, messages.Consents(puppet.bitmap(signers)), tail
            )
            assert len(frames) == 1
            reveals.add(frames[0])
            puppet.parties[site] = party
        assert len(reveals) == 1
        puppet.keep(site, everybody(n), reveals.pop())
    assert set(puppet.revealed) == set(puppet.honest)
    judge(puppet)


def two_lists(puppet: Puppet, victim: int, alive: list[int]) -> None:
    """Tell ``alive`` that the victim survived and the others that it did not."""
    n = puppet.n
    puppet.advertise(lambda i: everybody(n))
    puppet.share(lambda i: everybody(n))
    puppet.survive(lambda i: everybody(n) if i in alive else everybody(n) - {victim})


def semi_honest(n: int, colluding: int, threshold: int, drops: int) -> secagg.Plan:
    return make_plan(
        n,
        length=3,
        threat="semi-honest",
        colluding=colluding,
        max_dropouts=drops,
        sites_receive=False,
        protocol=secagg.MaskedSum(share_threshold=threshold, neighbours=n - 1),
    )


CELLS = [
    (n, c, t, drops)
    for n in range(3, 9)
    for c in range(4)
    for drops in (0, 1, 2)
    for t in range(max(2, c + 1), n - drops + 1)
    if n - drops - c >= 2
]


def test_the_two_list_attack_follows_its_law() -> None:
    """Bonawitz et al., CCS 2017: on semi-honest plans it works exactly where 2t <= n + c, and
    where a list without the victim is long enough to be believed."""
    wins = 0
    for n, c, t, drops in CELLS:
        puppet = Puppet(semi_honest(n, c, t, drops), range(c))
        victim = c
        alive = puppet.honest[: max(1, t - c)]
        two_lists(puppet, victim, alive)
        found = puppet.vector(victim)
        law = secagg.two_list_attack_possible(n, c, t) and drops >= 1
        assert (found is not None) == law, (n, c, t, drops)
        if found is not None:
            assert found == puppet.vectors[victim].tolist()
            wins += 1
    assert len(CELLS) > 150
    assert 0 < wins < len(CELLS)


def test_on_a_sparse_graph_the_law_counts_the_neighbourhood() -> None:
    """2t <= k + 1 + c_v, because a site holds a share of its own."""
    for colluding in (0, 1):
        for t in range(2, 8):
            plan = make_plan(
                12,
                length=3,
                threat="semi-honest",
                colluding=colluding,
                max_dropouts=4,
                sites_receive=False,
                protocol=secagg.MaskedSum(share_threshold=t, neighbours=6),
            )
            probe = Puppet(plan)
            victim = 0
            for colluder in range(1, 12) if colluding else [None]:
                chosen = [] if colluder is None else [colluder]
                puppet = Puppet(plan, chosen)
                near = sorted(probe.graph[victim] - set(chosen))
                c_v = len(probe.graph[victim] & set(chosen))
                alive = [victim, *near][: max(1, t - c_v)]
                two_lists(puppet, victim, alive)
                found = puppet.vector(victim)
                assert (found is not None) == (2 * t <= 6 + 1 + c_v), (t, c_v)
                if found is not None:
                    assert found == puppet.vectors[victim].tolist()


class NoConsentCount(Client):
    """A site that reveals on any number of consents: the control."""

    def _check_consent_count(self, signers: tuple[int, ...]) -> None:
        pass


def test_consent_is_what_stops_the_two_list_attack() -> None:
    plan = consent_plan(5, 1, 1)

    def attack(kind: type[Client]) -> Puppet:
        puppet = Puppet(plan, [0], client=kind)
        victim = 1
        puppet.advertise(lambda i: everybody(5))
        puppet.share(lambda i: everybody(5))

        def told(i: int) -> frozenset[int]:
            return everybody(5) if i in {1, 2, 3} else everybody(5) - {victim}

        puppet.survive(told)
        if kind is Client:
            puppet.confirm(told)
        else:
            for i in puppet.honest:
                for frame in puppet.say(messages.CONSENTS, i, messages.Consents(bytes(1))):
                    puppet.keep(i, told(i), frame)
        return puppet

    honest = attack(Client)
    assert set(honest.revealed.values()) == {everybody(5)}
    assert honest.both_secrets() == []
    # Without the count, both lists are answered: the rule is what stands between.
    assert len(set(attack(NoConsentCount).revealed.values())) == 2


def test_sparse_plan_is_semi_honest() -> None:
    assert sparse_plan().threat == "semi-honest"
