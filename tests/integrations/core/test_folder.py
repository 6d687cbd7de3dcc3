"""A party's folder: what it refuses, what it pins, what it remembers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from integrations.core.world import OPEN_POLICY, SERVER, World, quick, small

import secagg
from secagg.integrations.folder import MOST_SESSIONS, PartyFolder, write_folders
from secagg_protocols.errors import MisuseError, SecAggError
from secagg_protocols.plan_file import dump_plan, dump_roster
from secagg_protocols.stages.noise import Noise
from support.paillier_keys import short_keys
from support.paillier_sessions import session_plan as paillier_plan
from support.paillier_sessions import shares_of
from support.sessions import session_plan

__all__ = ["quick", "short_keys"]
SITE = "site-1"
#: What a policy states where the server proposes, and sets no limit by it.
OPEN = {"malicious_server": "false", "min_honest": "2"}
COHORT = "smallest_cohort = 3\n" + OPEN_POLICY


def rule(act: Any, *args: Any, **more: Any) -> str:
    """The rule of the error that a call raises."""
    with pytest.raises(SecAggError) as caught:
        act(*args, **more)
    return caught.value.rule


def over(roster: secagg.Roster, threat: Any = "malicious-server") -> secagg.Plan:
    """Another plan over a roster."""
    return secagg.Plan.recommend(
        roster,
        length=2,
        stages=(secagg.Integers(0, 9),),
        threat=threat,
        colluding=1,
        max_dropouts=0,
        min_honest=2,
    )


@pytest.fixture
def made(tmp_path: Path) -> World:
    return small(tmp_path / "parties", "malicious-server")


# Files and modes.


def test_a_folder_is_a_private_folder_with_an_identity(tmp_path: Path, made: World) -> None:
    folder = made.folders[SITE]
    assert PartyFolder(folder).name == SITE
    assert PartyFolder(str(folder)).path == folder
    for wrong in (None, 3, "", b"folder", "a\0b", tmp_path / "nowhere", folder / "plan.toml"):
        assert rule(PartyFolder, wrong) == "party-folder"
    for mode in (0o750, 0o705, 0o710, 0o777, 0o701):
        folder.chmod(mode)
        assert rule(PartyFolder, folder) == "party-folder"
    folder.chmod(0o700)
    (folder / "identity.key").chmod(0o640)
    assert rule(PartyFolder, folder) == "identity-file"
    (folder / "identity.key").chmod(0o600)
    (folder / "identity.key").unlink()
    assert rule(PartyFolder, folder) == "identity-file"
    (folder / "identity.key").mkdir()
    assert rule(PartyFolder, folder) == "identity-file"


def test_what_is_written_is_for_its_owner_alone(made: World) -> None:
    made.run()
    for name, folder in made.folders.items():
        assert folder.stat().st_mode & 0o777 == 0o700
        if name != SERVER:
            assert (folder / "sessions").stat().st_mode & 0o777 == 0o700
            assert list(folder.glob("sessions/*.sealed"))
        for path in (folder / "identity.key", folder / "journal", *folder.glob("sessions/*")):
            assert path.stat().st_mode & 0o077 == 0


def test_no_secret_is_in_a_repr(made: World) -> None:
    text = (made.folders[SITE] / "identity.key").read_text(encoding="utf-8")
    seed = text.splitlines()[2].removeprefix("seed ")
    folder = PartyFolder(made.folders[SITE])
    assert seed not in repr(folder) + repr(vars(folder)) + repr(made.desk(SITE))


def test_folders_are_never_written_over(made: World) -> None:
    before = {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    strangers = {"new": secagg.Identity.generate("new"), **made.identities}
    assert rule(write_folders, made.path, made.plan, strangers) == "party-folder"
    after = {path: path.read_bytes() for path in made.path.rglob("*") if path.is_file()}
    assert after == before
    assert not (made.path / "new").exists()


# Plans.


def test_the_pinned_plan_is_the_plan_whatever_is_proposed(made: World) -> None:
    other, _ = session_plan("semi-honest")
    folder = PartyFolder(made.folders[SITE])
    assert folder.plan(proposed=dump_plan(other)).digest == made.plan.digest
    assert folder.plan(proposed="not toml [").digest == made.plan.digest


def test_another_task_has_a_plan_of_its_own(tmp_path: Path) -> None:
    plan, identities = session_plan()
    evaluate = over(plan.roster, "semi-honest")
    folders = write_folders(tmp_path / "p", plan, identities, plans={"evaluate": evaluate})
    folder = PartyFolder(folders[SITE])
    assert folder.plan("train").digest == plan.digest
    assert folder.plan("evaluate").digest == evaluate.digest
    assert rule(folder.plan, "query") == "plan-pinned"


@pytest.mark.parametrize(
    "task", ["../train", "a/b", "", ".", "..", "a b", "a.b", "a\0b", "-", "train\n", "/etc/passwd"]
)
def test_a_task_is_no_path(made: World, task: str) -> None:
    folder = PartyFolder(made.folders[SITE])
    (made.path / "train.toml").write_text(dump_plan(made.plan), encoding="utf-8")
    assert rule(folder.plan, task) == "plan-pinned"


def test_without_plan_and_roster_there_is_no_plan(made: World) -> None:
    (made.folders[SITE] / "plan.toml").unlink()
    folder = PartyFolder(made.folders[SITE])
    assert rule(folder.plan, proposed=dump_plan(made.plan)) == "plan-pinned"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"plan = [", b"length = 3", b"x" * 9999])
def test_a_damaged_plan_is_an_error_that_names_its_file(made: World, content: bytes) -> None:
    path = made.folders[SITE] / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(MisuseError, match=str(path)):
        PartyFolder(made.folders[SITE]).plan()


# Proposals.


@pytest.fixture
def pinned(tmp_path: Path) -> World:
    """Sites pin the roster, and have a policy."""
    return small(tmp_path / "parties", "malicious-server", propose=True, policy=COHORT)


def test_a_proposal_over_the_pinned_roster_is_taken(pinned: World) -> None:
    folder = PartyFolder(pinned.folders[SITE])
    assert folder.plan(proposed=dump_plan(pinned.plan)).digest == pinned.plan.digest
    assert rule(folder.plan) == "plan-pinned"
    pinned.check(pinned.run())
    pinned.check(pinned.run())
    pinned.rounds.finish(pinned.transport)


def test_a_proposal_over_another_roster_is_refused(pinned: World) -> None:
    folder = PartyFolder(pinned.folders[SITE])
    # The same names under other keys; the same keys with one site swapped; another order.
    stranger, _ = session_plan("malicious-server")
    assert rule(folder.plan, proposed=dump_plan(stranger)) == "roster-pinned"
    roster = pinned.plan.roster
    sites = list(roster.sites)
    swapped = [*sites[:-1], (sites[-1][0], secagg.Identity.generate("x").public)]
    more = [*sites, ("site-9", secagg.Identity.generate("site-9").public)]
    for others in (swapped, more, sites[::-1], sites[:-1]):
        other = secagg.Roster(sites=tuple(others), server=roster.server)
        assert rule(folder.plan, proposed=dump_plan(over(other))) == "roster-pinned"
    other = secagg.Roster(sites=roster.sites, server=secagg.Identity.generate("server").public)
    assert rule(folder.plan, proposed=dump_plan(over(other))) == "roster-pinned"


@pytest.mark.parametrize("name", ["made", "pinned"])
def test_a_policy_that_censors_is_refused(name: str, request: pytest.FixtureRequest) -> None:
    """No framework's update comes with what censoring takes; it is not left out in silence."""
    world: World = request.getfixturevalue(name)
    folder, proposal = world.folders[SITE], dump_plan(world.plan)
    stated = "malicious_server = true\nmin_honest = 1\n"
    (folder / "policy.toml").write_text(stated, encoding="utf-8")
    assert PartyFolder(folder).plan(proposed=proposal).digest == world.plan.digest
    (folder / "policy.toml").write_text(f"{stated}[censoring]\nq = 2\n", encoding="utf-8")
    assert rule(PartyFolder(folder).plan, proposed=proposal) == "policy-censoring"
    reply = world.desk(SITE).answer(world.rounds.greeting("key")).reply
    assert rule(world.rounds.welcome, "key", reply) == "policy-censoring"


def test_who_fixed_one_plan_takes_no_other_of_the_server(made: World) -> None:
    """Roster and policy beside the plan: what the consortium's steps make."""
    folder = made.folders[SITE]
    (folder / "roster.toml").write_text(dump_roster(made.plan.roster), encoding="utf-8")
    (folder / "policy.toml").write_text("malicious_server = true\nmin_honest = 1\n")
    text = dump_plan(made.plan)
    assert PartyFolder(folder).plan(proposed=text).digest == made.plan.digest
    assert rule(PartyFolder(folder).plan, "evaluate", proposed=text) == "plan-pinned"
    (folder / "plan-evaluate.toml").write_text(text, encoding="utf-8")
    assert PartyFolder(folder).plan("evaluate").digest == made.plan.digest


@pytest.mark.parametrize("name", ["policy", "budget", "roster", "plan"])
@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_file_that_cannot_be_read_is_not_a_file_that_is_missing(
    made: World, name: str, kind: str
) -> None:
    """A disk that is not mounted takes no limit away."""
    path = made.folders[SITE] / f"{name}.toml"
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to("/nowhere/at/all.toml")
    else:
        path.mkdir()
    folder = PartyFolder(made.folders[SITE])
    found = rule(folder.ledger) if name == "budget" else rule(folder.plan)
    assert found == "party-folder"
    answer = made.desk(SITE).answer(made.rounds.greeting("key"))
    assert rule(made.rounds.welcome, "key", answer.reply) == "party-folder"


def test_a_share_that_cannot_be_read_is_not_missing(made: World) -> None:
    (made.folders[SITE] / "share.key").symlink_to("/nowhere/at/all")
    folder = PartyFolder(made.folders[SITE])
    assert folder.holder
    assert rule(lambda: folder.share) == "party-folder"


def test_a_pinned_plan_is_over_the_pinned_roster(made: World) -> None:
    """A plan has a roster of its own; it is the other one whose fingerprint was compared."""
    path = made.folders[SITE] / "roster.toml"
    path.write_text(dump_roster(made.plan.roster), encoding="utf-8")
    assert PartyFolder(made.folders[SITE]).plan().digest == made.plan.digest
    made.check(made.run())
    roster = made.plan.roster
    sites = (*roster.sites[:-1], (roster.sites[-1][0], secagg.Identity.generate("x").public))
    other = secagg.Roster(sites=sites, server=roster.server, epoch=roster.epoch)
    path.write_text(dump_roster(other), encoding="utf-8")
    assert rule(PartyFolder(made.folders[SITE]).plan) == "roster-pinned"
    reply = made.desk(SITE).answer(made.rounds.greeting("key")).reply
    assert rule(made.rounds.welcome, "key", reply) == "roster-pinned"


@pytest.mark.parametrize("text", ["[", "a = 1", "length = 1e400", "\0", "x = " + "[" * 5000])
def test_a_proposal_that_is_no_plan_is_refused(pinned: World, text: str) -> None:
    folder = PartyFolder(pinned.folders[SITE])
    with pytest.raises(SecAggError):
        folder.plan(proposed=text)


def test_a_roster_without_a_policy_takes_no_proposal(pinned: World) -> None:
    (pinned.folders[SITE] / "policy.toml").unlink()
    folder = PartyFolder(pinned.folders[SITE])
    assert rule(folder.plan, proposed=dump_plan(pinned.plan)) == "plan-pinned"


@pytest.mark.parametrize("stated", [{"malicious_server"}, {"min_honest"}, set(), OPEN.keys()])
def test_a_policy_speaks_of_what_a_proposed_plan_could_leave_out(
    pinned: World, stated: set[str]
) -> None:
    text = "".join(f"{name} = {OPEN[name]}\n" for name in sorted(stated))
    (pinned.folders[SITE] / "policy.toml").write_text(text, encoding="utf-8")
    folder = PartyFolder(pinned.folders[SITE])
    if stated == OPEN.keys():
        assert folder.plan(proposed=dump_plan(pinned.plan)).digest == pinned.plan.digest
    else:
        assert rule(folder.plan, proposed=dump_plan(pinned.plan)) == "plan-pinned"


@pytest.mark.parametrize("propose", [False, True])
@pytest.mark.parametrize(
    ("policy", "broken"),
    [
        ("smallest_cohort = 4\n", "floors"),
        ("min_honest = 3\n", "floors"),
        ("malicious_server = true\n", "floors"),
        ("[privacy]\nmost_epsilon = 1.0\n", "policy-epsilon"),
        ("smalest_cohort = 3\n", "floors-file"),
        ("smallest_cohort = [\n", "floors-file"),
    ],
)
def test_a_policy_holds_for_pinned_and_proposed_plans(
    tmp_path: Path, propose: bool, policy: str, broken: str
) -> None:
    if propose:
        given = policy.partition("=")[0].strip()
        rest = "".join(f"{name} = {value}\n" for name, value in OPEN.items() if name != given)
        policy = rest + policy
    world = small(tmp_path / "p", "semi-honest", propose=propose, policy=policy)
    folder = PartyFolder(world.folders[SITE])
    assert rule(folder.plan, proposed=dump_plan(world.plan)) == broken
    # The server is told by which rule, and the site takes no part.
    greeting = world.rounds.greeting("key")
    reply = world.desk(SITE).answer(greeting).reply
    assert rule(world.rounds.welcome, "key", reply) == broken


def test_a_policy_of_epsilon_admits_a_plan_that_claims_less(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from secagg import dp

    roster, identities = secagg.Roster.generate([f"site-{i}" for i in range(5)])
    plan = secagg.Plan.recommend(
        roster,
        length=3,
        stages=(secagg.ClipL2(1.0), secagg.Quantise(1 << 12)),
        threat="semi-honest",
        colluding=1,
        max_dropouts=1,
    )
    private = dp.calibrate(
        plan, epsilon=2.0, delta=1e-5, rounds=2, l2_clip=1.0, adjacency="zero-out"
    )
    for most, number in ((3.0, 0), (1.0, 1)):
        policy = f"[privacy]\nmost_epsilon = {most}\n"
        made = write_folders(tmp_path / f"p{number}", private, identities, policy=policy)
        folder = PartyFolder(made[SITE])
        if number == 0:
            assert folder.plan().digest == private.digest
        else:
            assert rule(folder.plan) == "policy-epsilon"


def test_a_party_that_the_roster_does_not_pin_says_so(tmp_path: Path) -> None:
    plan, identities = session_plan("malicious-server")
    other = identities | {SITE: secagg.Identity.generate(SITE)}
    folders = write_folders(tmp_path / "p", plan, other)
    folder = PartyFolder(folders[SITE])
    assert rule(folder.check_member, plan) == "roster-member"
    PartyFolder(folders[SERVER]).check_member(plan)
    PartyFolder(folders["site-0"]).check_member(plan)


# Journals.


def test_a_journal_that_is_gone_while_sessions_are_there_is_missed(made: World) -> None:
    made.run()
    (made.folders[SITE] / "journal").unlink()
    assert rule(lambda: PartyFolder(made.folders[SITE]).journal) == "party-folder"
    assert not (made.folders[SITE] / "journal").exists()
    with pytest.raises(SecAggError):
        made.desk(SITE)._open(*_request(made))
    # It takes no part; the others go on without it.
    made.check(made.run(), SITE)
    answer = made.of(SITE, made.calls[-1].slot.INPUT)[-1].answer
    assert isinstance(answer.error, MisuseError)


def _request(world: World) -> tuple[Any, Any]:
    from integrations.core.world import open_request

    return open_request(world.rounds.greeting("x")), world.plan


def test_a_copied_folder_is_not_the_party(made: World, tmp_path: Path) -> None:
    """The journal notices that it is a copy: two parties of one name would answer twice."""
    made.run()
    copy = tmp_path / "copy"
    shutil.copytree(made.folders[SITE], copy)
    made.folders[SITE] = copy
    made.check(made.run(), SITE)
    problem = made.of(SITE, made.calls[-1].slot.INPUT)[-1].answer.error
    assert isinstance(problem, MisuseError)
    assert problem.rule == "journal-copy"


# Budgets.


def test_a_spent_budget_keeps_the_site_out(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    noise = Noise(law="discrete-gaussian", variance_levels2=1 << 26)
    world = small(tmp_path / "p", stages=(secagg.Integers(0, 255), noise))
    budget = world.folders[SITE] / "budget.toml"
    budget.write_text("epsilon = 0.3\ndelta = 1e-5\n", encoding="utf-8")
    ledger = PartyFolder(world.folders[SITE]).ledger()
    assert ledger is not None
    borne = ledger.rounds_left(world.plan)
    assert borne >= 1
    everybody = set(world.names)
    for number in range(borne + 2):
        found = world.run()
        assert set(found.survivors) == everybody - ({SITE} if number >= borne else set())
    folder = PartyFolder(world.folders[SITE])
    again = folder.ledger()
    assert again is not None
    assert sum(rounds for _, rounds in again.entries()) == borne
    # Another session has the same budget, and an owner who allows more has the site back in it.
    world.rounds = world.new_rounds()
    assert set(world.run().survivors) == everybody - {SITE}
    budget.write_text("epsilon = 20.0\ndelta = 1e-5\n", encoding="utf-8")
    assert set(world.run().survivors) == everybody


@pytest.mark.parametrize("text", ["", "epsilon = 1.0", "epsilon = -1\ndelta = 1e-5", "e = 1", "["])
def test_a_wrong_budget_is_refused(made: World, text: str) -> None:
    (made.folders[SITE] / "budget.toml").write_text(text, encoding="utf-8")
    assert rule(PartyFolder(made.folders[SITE]).ledger) == "options"
    # Nothing is sent without the limit that its owner meant.
    made.check(made.run(), SITE)


def test_a_budget_that_was_removed_in_a_session_is_missed(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    noise = Noise(law="discrete-gaussian", variance_levels2=1 << 26)
    world = small(tmp_path / "p", stages=(secagg.Integers(0, 255), noise))
    budget = world.folders[SITE] / "budget.toml"
    budget.write_text("epsilon = 9.0\ndelta = 1e-5\n", encoding="utf-8")
    assert set(world.run().survivors) == set(world.names)
    budget.unlink()
    assert set(world.run().survivors) == set(world.names) - {SITE}


# Shares of a key.


@pytest.mark.usefixtures("short_keys")
@pytest.mark.parametrize(("holders", "kind"), [(1, "PrivateKey"), (3, "KeyShare")])
def test_a_holder_has_a_share_or_the_whole_key(tmp_path: Path, holders: int, kind: str) -> None:
    plan = paillier_plan(holders=holders, threshold=min(holders, 2), threat="semi-honest")
    identities = {name: secagg.Identity.generate(name) for name in ("h0", "s0")}
    folders = write_folders(tmp_path / "p", plan, identities, shares=shares_of(plan))
    folder = PartyFolder(folders["h0"])
    assert type(folder.share).__name__ == kind
    assert folder.holder
    assert not PartyFolder(folders["s0"]).holder
    assert PartyFolder(folders["s0"]).share is None
    (folders["h0"] / "share.key").chmod(0o644)
    assert rule(lambda: PartyFolder(folders["h0"]).share) == "party-folder"


@pytest.mark.parametrize("content", [b"", b"share", bytes(4096)])
def test_a_file_that_is_no_share_is_refused(made: World, content: bytes) -> None:
    path = made.folders[SITE] / "share.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert rule(lambda: PartyFolder(made.folders[SITE]).share) == "party-folder"


# Sealed states.


def test_old_states_are_erased(made: World) -> None:
    folder = PartyFolder(made.folders[SITE])
    count = MOST_SESSIONS + 3
    for number in range(count):
        folder.write_state(f"run-{number}", b"%d" % number)
        os.utime(folder.sessions / f"run-{number}.sealed", ns=(number, number))
    # Writing alone erases nothing: nobody's bytes may push a running session out.
    assert len(list(folder.sessions.iterdir())) == count
    folder.forget_others(f"run-{count - 1}")
    kept = [n for n in range(count) if folder.read_state(f"run-{n}") is not None]
    assert kept == list(range(3, count))
    folder.forget_others(f"run-{count - 1}")
    assert len(list(folder.sessions.iterdir())) == MOST_SESSIONS
    folder.forget_state("run-3")
    folder.forget_state("run-3")
    assert folder.read_state("run-3") is None


def test_a_state_is_not_erased_for_a_clock_that_was_set_back(made: World) -> None:
    folder = PartyFolder(made.folders[SITE])
    later = 4_000_000_000 * 10**9
    for number in range(MOST_SESSIONS):
        folder.write_state(f"run-{number}", b"old")
        os.utime(folder.sessions / f"run-{number}.sealed", ns=(later, later))
    folder.write_state("new", b"new")
    folder.forget_others("new")
    assert folder.read_state("new") == b"new"
    assert len(list(folder.sessions.iterdir())) == MOST_SESSIONS


def test_sessions_that_never_ended_do_not_pile_up(made: World) -> None:
    """Each run of the server is a session of its own, and its states lie sealed on the disk."""
    for _ in range(MOST_SESSIONS + 2):
        made.rounds = made.new_rounds(folder=None)
        made.run(model=b"model %d" % len(made.calls))
    assert len(list((made.folders[SITE] / "sessions").iterdir())) <= MOST_SESSIONS


def test_a_state_is_whole_or_not_there(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PartyFolder(made.folders[SITE])
    folder.write_state("run", b"before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _fails)
        with pytest.raises(OSError, match="full"):
            folder.write_state("run", b"after, which is longer")
    assert folder.read_state("run") == b"before"


def _fails(_: int) -> None:
    raise OSError("the disk is full")


def test_a_roster_file_may_stand_beside_the_plan(made: World) -> None:
    path = made.folders[SITE] / "roster.toml"
    path.write_text(dump_roster(made.plan.roster), encoding="utf-8")
    folder = PartyFolder(made.folders[SITE])
    assert folder.roster == made.plan.roster
    assert folder.plan().digest == made.plan.digest
