"""No attack is sent what it is after: every transcript of every quick cell is searched for it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from secagg.attacks import lab
from secagg.attacks.attack import Evidence, Keys, Transcript, encode
from secagg.attacks.catalogue import ATTACKS, load_scene
from secagg.attacks.columns import COLUMNS
from secagg.attacks.finding import Verdict
from secagg.attacks.scene import Lab
from secagg_protocols import plain_sum
from secagg_protocols.party import Party
from secagg_protocols.site import SiteParty

#: Adversaries that are sites themselves, or work with some: what these hold is theirs.
OWN = {
    "share-both": "colluding sites hand over their seeds",
    "split-view": "colluding sites hand over their seeds",
    "vote-splitting": "colluding sites hand over their seeds",
    "sybils": "the server knows the vectors of the sites that it invented",
    "membership": "it asks about an update that it knows",
    "slot-overflow": "the attacker is one of the sites",
    "small-cohort": "colluding sites subtract their own vectors",
}
#: A vector of fewer coordinates, or of few values, may be in any bytes by chance.
LEAST_BYTES = 16


class Spy:
    """Every vector that a real site was given, and every secret that it drew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: dict[bytes, str] = {}
        self.secrets: dict[bytes, str] = {}
        self.found: list[str] = []
        spy = self
        made = SiteParty.__init__

        def init(self: Any, plan: Any, index: int, **common: Any) -> None:
            made(self, plan, index, **common)
            draw = self._entropy

            def drawn(size: int) -> bytes:
                seed: bytes = draw(size)
                spy.secrets[bytes(seed)] = self.name
                return seed

            self._entropy = drawn
            if self.identity is not None:
                spy.secrets[bytes(self.identity._key)] = self.name

        monkeypatch.setattr(SiteParty, "__init__", init)
        for kind in (SiteParty, plain_sum.PlainClient):
            for owner in [kind, *kind.__subclasses__()]:
                if "submit" in vars(owner):
                    self._watch(monkeypatch, owner)
        attack = Lab.attack

        def run(self: Lab, transcript: Transcript, keys: Keys = Keys()) -> Evidence:  # noqa: B008
            spy.search(encode(transcript) + encode(keys))
            return attack(self, transcript, keys)

        monkeypatch.setattr(Lab, "attack", run)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: type[Any]) -> None:
        submit, spy = owner.submit, self

        def submitted(party: Party, x: Any, *args: Any, **more: Any) -> Any:
            spy.keep(np.asarray(x), party.name)
            return submit(party, x, *args, **more)

        monkeypatch.setattr(owner, "submit", submitted)

    def keep(self, x: Any, site: str) -> None:
        if x.dtype == object or np.unique(x).size < 4:
            return
        forms = [x.tobytes(), msgspec.msgpack.encode(x.tolist())[1:]]
        forms += [x.astype(np.float64).tobytes(), msgspec.msgpack.encode([float(v) for v in x])[1:]]
        if np.issubdtype(x.dtype, np.integer):
            forms += [x.astype(t).tobytes() for t in (np.uint16, np.uint32, np.int64)]
            forms.append(msgspec.msgpack.encode([int(v) for v in x])[1:])
        for form in forms:
            if len(form) >= LEAST_BYTES:
                self.rows[form] = site

    def search(self, data: bytes) -> None:
        """Keep what the data hold of sites; of some sites only, where these collude."""
        rows = {site for form, site in self.rows.items() if form in data}
        secrets = {site for form, site in self.secrets.items() if form in data}
        self.found += [f"the vector of {site}" for site in rows]
        self.found += [f"a secret of {site}" for site in secrets]
        every = {*self.rows.values(), *self.secrets.values()}
        if every and rows | secrets == every:
            self.found.append("everybody's")


CELLS = [
    (name, column)
    for name in ATTACKS
    for column in COLUMNS
    # Whoever adds up plain vectors sees them.
    if column != "plain" and isinstance(load_scene(name).expected[column], Verdict)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), CELLS)
def test_no_attack_is_sent_what_it_is_after(
    name: str, column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch)
    assert lab.here(name, column, separate=False).problems == []
    if name in OWN:
        assert "everybody's" not in spy.found
    else:
        assert sorted(set(spy.found)) == []


def test_the_search_finds_a_vector_and_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    from secagg.attacks import columns

    spy = Spy(monkeypatch)
    made = columns.plan("semi-honest", 5, 8)
    vectors = np.arange(40).reshape(5, 8) + 300
    columns.honest_sum(made, vectors, seed=b"seed")
    assert spy.rows and spy.secrets
    for given in (
        Transcript(arrays={"x": vectors[1]}),
        Transcript(public={"x": vectors[1].tolist()}),
        Transcript(public={"x": [float(v) for v in vectors[1]]}),
    ):
        spy.found.clear()
        spy.search(encode(given))
        assert set(spy.found) == {"the vector of s1"}
    secret = next(iter(spy.secrets))
    spy.found.clear()
    spy.search(encode(Keys(values={"seed": secret})))
    assert spy.found == [f"a secret of {spy.secrets[secret]}"]
    spy.found.clear()
    spy.search(encode(Transcript(arrays={"x": vectors.sum(axis=0)})))
    assert spy.found == []
