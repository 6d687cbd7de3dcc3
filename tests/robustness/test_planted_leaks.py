"""Planted leaks: mistakes that a change of the package could make, each found by the search."""

from __future__ import annotations

import base64
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from robustness.evidence import Evidence, canary_plan, run_all
from robustness.leaks import all_secrets, search, vector_secrets
from robustness.rounds import Round, entropy_of, vector_of

import secagg
from secagg import FileJournal, Identity
from secagg_protocols.masked_sum import client as client_module
from secagg_protocols.masked_sum import client_shares, masks
from secagg_protocols.stages import integers

Plant = Callable[[pytest.MonkeyPatch], None]


def plant_log(patch: pytest.MonkeyPatch) -> None:
    true = masks.SiteSecrets.derive.__func__  # type: ignore[attr-defined]

    def derive(cls: Any, seed: bytes, context: bytes) -> Any:
        logging.getLogger("secagg.masks").debug("seed %s", seed.hex())
        return true(cls, seed, context)

    patch.setattr(masks.SiteSecrets, "derive", classmethod(derive))


def plant_print(patch: pytest.MonkeyPatch) -> None:
    true = masks.self_mask

    def self_mask(seed: bytes, site: int, context: bytes) -> bytes:
        print(base64.b64encode(b"\0" + seed))
        return true(seed, site, context)

    patch.setattr(masks, "self_mask", self_mask)


def plant_stderr(patch: pytest.MonkeyPatch) -> None:
    true = masks.pair_mask

    def pair_mask(seed: bytes, *rest: Any, **named: Any) -> bytes:
        key = true(seed, *rest, **named)
        print(list(key), file=sys.stderr)
        return key

    patch.setattr(masks, "pair_mask", pair_mask)


def plant_warning(patch: pytest.MonkeyPatch) -> None:
    true = Identity.derive

    def derive(self: Identity, label: bytes) -> bytes:
        warnings.warn(f"deriving from {bytes(self._key).hex().upper()}", stacklevel=2)
        return true(self, label)

    patch.setattr(Identity, "derive", derive)


def plant_repr(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(masks.SiteSecrets, "__repr__", lambda self: f"SiteSecrets({self.mask_seed!r})")


def plant_party_repr(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(client_module.Client, "__repr__", lambda self: f"Client({vars(self)})")
    plant_repr(patch)


def plant_commitment(patch: pytest.MonkeyPatch) -> None:
    """The commitment is the seed itself."""
    patch.setattr(masks, "commitment", lambda context, site, seed: seed)


def plant_plain_shares(patch: pytest.MonkeyPatch) -> None:
    """Shares travel in the clear."""
    patch.setattr(client_shares, "encrypt_once", lambda key, text, more: text + bytes(16))
    patch.setattr(client_shares, "decrypt_once", lambda key, text, more, sender: text[:-16])


def plant_no_masks(patch: pytest.MonkeyPatch) -> None:
    """The vector travels unmasked."""
    patch.setattr(client_module.Keystreams, "add_to", lambda *_, **__: None)
    from secagg_protocols.masked_sum import server as server_module

    patch.setattr(server_module, "add_keystreams", lambda *_, **__: None)


def plant_journal(patch: pytest.MonkeyPatch) -> None:
    true = FileJournal.claim
    seed = canary_seed()

    def claim(
        self: FileJournal, context: bytes, step: int, digest: bytes, reply: bytes, **more: Any
    ) -> bytes:
        true(self, context, 99 + step, digest, seed, **more)
        return true(self, context, step, digest, reply, **more)

    patch.setattr(FileJournal, "claim", claim)
    patch.setattr(FileJournal, "newest", lambda self, context: 0)


def plant_open_seal(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(secagg, "seal", lambda data, identity: data)


def plant_error_text(patch: pytest.MonkeyPatch) -> None:
    def begin(self: Any, x: Any, rand: Any, given: Any) -> Any:
        raise secagg.MisuseError(f"{int(x.array[0])} is bad", rule="input-range")

    patch.setattr(integers.Integers, "begin", begin)


def plant_error_attribute(patch: pytest.MonkeyPatch) -> None:
    def begin(self: Any, x: Any, rand: Any, given: Any) -> Any:
        error = secagg.MisuseError("bad", rule="input-range")
        error.vector = x.array.tobytes()  # type: ignore[attr-defined]
        raise error

    patch.setattr(integers.Integers, "begin", begin)


def plant_chained_error(patch: pytest.MonkeyPatch) -> None:
    def begin(self: Any, x: Any, rand: Any, given: Any) -> Any:
        try:
            {}[x.array.tobytes()]  # type: ignore[index]
        except KeyError:
            raise secagg.MisuseError("bad", rule="input-range") from None

    patch.setattr(integers.Integers, "begin", begin)


def canary_seed() -> bytes:
    return entropy_of("site-0")(32)


PLANTS: dict[Plant, tuple[str, str]] = {
    plant_log: ("log", "round seed of site-1"),
    plant_print: ("stdout", "self seed of site-1"),
    plant_stderr: ("stderr", "pair mask of site-0 and site-1"),
    plant_warning: ("warnings", "identity seed of site-1"),
    plant_repr: ("texts", "mask seed of site-1"),
    plant_party_repr: ("texts", "mask seed of site-1"),
    plant_commitment: ("wire", "self seed of site-1"),
    plant_plain_shares: ("wire", "mask share of site-0 held by site-1"),
    plant_no_masks: ("wire", "vector of site-1"),
    plant_journal: ("journal of site-1", "round seed of site-0"),
    plant_open_seal: ("sealed dumps of site-1", "round seed of site-1"),
    plant_error_text: ("texts", "vector of site-0"),
    plant_error_attribute: ("texts", "vector of site-0"),
    plant_chained_error: ("texts", "vector of site-0"),
}


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_a_planted_leak_is_found(
    plant: Plant,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Secrets are derived before the leak is planted, so that the derivation is the true one.
    plan, identities = canary_plan("semi-honest")
    names = plan.roster.names
    secrets = all_secrets(Round(plan, identities), names[:-1], names)
    plant(monkeypatch)
    output, secret = PLANTS[plant]
    if "error" in plant.__name__:
        evidence = Evidence()
        with evidence.provoke():
            Round(plan, identities, submitted=False).submit(names[0])
    else:
        evidence, _ = run_all("semi-honest", tmp_path, capfd, only_round=True)
    found = {(leak.output, leak.secret) for leak in search(evidence.outputs(), secrets.hidden)}
    assert (output, secret) in found, found


def test_an_unmasked_vector_of_floats_would_be_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, _ = canary_plan("floats")
    secrets = vector_secrets(plan, "site-0")
    plant_no_masks(monkeypatch)
    evidence, _ = run_all("floats", tmp_path, capfd, only_round=True)
    found = {leak.secret for leak in search({"wire": evidence.outputs()["wire"]}, secrets)}
    assert found == {"rounded vector of site-0"}
    shown = {"texts": repr(vector_of(plan, "site-0")).encode()}
    assert {leak.secret for leak in search(shown, secrets)} == {"digits of the vector of site-0"}
