"""What sites are told is the same for all, and no site in a sum counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import secagg
from secagg.integrations.binding import bound
from secagg.integrations.folder import PartyFolder, write_folders
from secagg.integrations.rounds import Rounds
from secagg.integrations.site import Contribution, SiteDesk
from secagg.session import Slot
from secagg_protocols.errors import ThresholdError

NAMES = ["amiens", "bergen", "cork", "delft", "evora"]


class Federation:
    """Five sites by direct calls; ``told`` is what each was told, by name."""

    def __init__(self, folder, *, stages=None, **options):
        roster, identities = secagg.Roster.generate(NAMES)
        self.plan = secagg.Plan.recommend(
            roster,
            length=3,
            stages=stages or (secagg.ClipL2(4.0), secagg.Quantise(1 << 16)),
            threat="malicious-server",
            colluding=1,
            max_dropouts=1,
            max_weight=9,
            **options,
        )
        self.folders = write_folders(folder / "parties", self.plan, identities)
        server = PartyFolder(self.folders["server"])
        self.rounds = Rounds(self.plan, identity=server.identity, folder=server)
        self.told: dict[str, bytes] = {}
        self.weights: dict[str, int] = {}
        self.errors: dict[str, Exception | None] = {}

    def run(self, model=b"model", settings=b"settings"):
        """One round; every site sends ones."""

        def transport(requests, slot):
            for name, request in requests.items():

                def work(_, name=name):
                    told = self.told.get(name, settings)
                    weight = self.weights.get(name, 1)
                    return Contribution(np.ones(3), weight, model, told)

                desk = SiteDesk(self.folders[name])
                answer = desk.answer(request, work if slot is Slot.INPUT else None)
                if slot is Slot.INPUT:
                    self.errors[name] = answer.error
                yield name, answer.reply

        return self.rounds.run(model, transport, settings=settings)


def test_a_site_that_was_told_something_else_is_not_in_the_sum(tmp_path):
    five = Federation(tmp_path)
    five.told["cork"] = b"other settings"
    assert five.run().survivors == ("amiens", "bergen", "delft", "evora")
    assert five.errors["cork"].rule == "stated-settings"
    assert five.rounds.reports[-1].exchanges[2].out == ("cork",)


def test_one_site_that_is_told_the_truth_gets_no_sum_of_its_own(tmp_path):
    five = Federation(tmp_path)
    five.told = dict.fromkeys(NAMES[1:], b"do nothing")
    with pytest.raises(ThresholdError):
        five.run()


def test_with_an_adaptive_clip_settings_are_bound_with_the_model(tmp_path):
    clip = secagg.AdaptiveClip(clip=4.0, lowest=1.0, highest=16.0)
    five = Federation(tmp_path, stages=(clip, secagg.Quantise(1 << 16)))
    five.told["cork"] = b"other settings"
    assert len(five.run().survivors) == 4
    assert five.errors["cork"].rule == "stated-model"
    assert len(five.run(b"next").survivors) >= 4


@pytest.mark.parametrize("weight", [0, -1])
def test_a_site_counts_for_at_least_one(tmp_path, weight):
    five = Federation(tmp_path)
    five.weights["cork"] = weight
    assert five.run().survivors == ("amiens", "bergen", "delft", "evora")
    assert five.errors["cork"].rule == "weight-range"


def test_another_setting_is_no_other_model(tmp_path):
    """The server's round number must not buy it a further input of one model."""
    five = Federation(tmp_path)
    assert five.plan.max_inputs_per_model == 2
    five.run(settings=b"round 1")
    five.run(settings=b"round 2")
    with pytest.raises(ThresholdError):
        five.run(settings=b"round 3")
    assert {error.rule for error in five.errors.values()} == {"inputs-per-model"}


def test_models_and_settings_have_values_of_their_own(tmp_path):
    plan = Federation(tmp_path).plan
    assert bound(plan, b"m", b"") == (b"m", b"")
    assert bound(plan, b"m", b"s")[0] == b"m"
    found = {bound(plan, b"m", settings)[1] for settings in (b"", b"s", b"t")}
    assert len(found) == 3
    other = replace(
        plan,
        stages=(secagg.AdaptiveClip(clip=4.0, lowest=1.0, highest=16.0), *plan.stages[1:]),
        bits=None,
    )
    assert len({bound(other, b"m", settings)[0] for settings in (b"", b"s", b"t")}) == 3
