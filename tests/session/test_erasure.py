"""Secrets of a round are gone when it is over, and those of a setup when its round is aborted."""

from __future__ import annotations

from secagg.session import Aborted, Slot
from secagg_protocols.events import Dropped
from support.sessions import Played, session_plan


def secrets_of(played: Played, site: str) -> dict[int, list[bytes]]:
    """By round: seed, self seed and mask seed, and the shares that the site holds."""
    found = {}
    for number, client in played.sites[site]._clients.items():
        own = client._secrets
        held = [share for share in client._shares.values() if share is not None]
        if own is not None:
            found[number] = [own.seed, own.self_seed, own.mask_seed, own.channel_seed, *held]
    return found


def holds(played: Played, site: str, secrets: list[bytes]) -> bool:
    """Whether a dump of the site has any of them."""
    dump = played.sites[site].dump()
    return any(secret in dump for secret in secrets)


def test_a_revealed_round_leaves_no_secret() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    kept: dict[int, list[bytes]] = {}
    checked = 0
    asked = played.ask

    def watch(site: str, data: bytes):  # type: ignore[no-untyped-def]
        nonlocal checked
        before = secrets_of(played, site)
        sends = asked(site, data)
        if site == "site-2":
            for number, secrets in (before | secrets_of(played, site)).items():
                kept[number] = secrets
            current = played.hub.round
            if played.hub.slot == Slot.REVEAL:
                # The round is revealed, and the setup of the next one is there.
                assert kept[current]
                assert not holds(played, site, kept[current])
                assert holds(played, site, kept[current + 1])
                checked += 1
        return sends

    played.ask = watch  # type: ignore[method-assign]
    for number in range(3):
        assert played.round(b"%d" % number) is not None
    assert checked == 3


def test_the_setup_of_an_aborted_round_is_erased() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(plan, identities)
    assert played.round(b"zero") is not None
    # The second round is given up after its inputs: its keys and those of the third are made.
    played.begin(b"one")
    played.deliver(played.orders)
    doomed = secrets_of(played, "site-0")
    assert set(doomed) == {1, 2}
    assert all(holds(played, "site-0", secrets) for secrets in doomed.values())
    (aborted,) = played.hub.abort()
    assert isinstance(aborted, Aborted)
    assert played.round(b"one") is not None
    assert played.hub.round == 3
    for secrets in doomed.values():
        assert not holds(played, "site-0", secrets)
    # The site is told that the round it had sent its vector for came to nothing.
    assert [e.round for e in played.of("site-0", Aborted)] == [1]


def test_a_late_site_keeps_nothing_of_the_round() -> None:
    plan, identities = session_plan("malicious-server")
    played = Played(
        plan,
        identities,
        reach=lambda e, number, slot, site: (site != "site-3" or slot != Slot.INPUT, True),
    )
    played.begin(b"one")
    for _ in range(2):
        played.exchange()
    doomed = secrets_of(played, "site-3")[0]
    assert holds(played, "site-3", doomed)
    for _ in range(2):
        played.exchange()
    assert [e.error.rule for e in played.of("site-3", Dropped)] == ["late"]
    assert not holds(played, "site-3", doomed)


def test_a_closed_session_keeps_nothing() -> None:
    plan, identities = session_plan()
    played = Played(plan, identities)
    assert played.round(b"one") is not None
    secrets = [s for more in secrets_of(played, "site-1").values() for s in more]
    secrets.append(played.sites["site-1"]._seed)
    assert len(secrets) > 1
    played.sites["site-1"].close()
    assert not holds(played, "site-1", secrets)
