"""What a site counts under declearn, in its folder's journal: floors, models, inputs for a model.

Nothing here imports declearn.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from secagg.integrations.folder import PartyFolder
from secagg_protocols.errors import MisuseError, ReleaseError
from secagg_protocols.journal import journal_calls
from secagg_protocols.plan import Plan
from secagg_protocols.registers import (
    MOST_MODELS,
    TAG_SIZE,
    inputs_register,
    ledger_register,
    models_register,
    pack_count,
    pack_released,
    pack_tags,
    released_register,
    unpack_count,
    unpack_released,
    unpack_tags,
)

_DATA = ""  # one data set a folder, as in the other integrations


class Limits:
    """The limits of one site under one plan.

    :class:`MisuseError` (``declearn-folder``) for a folder with a privacy budget: a limit that
    cannot be kept here.
    """

    def __init__(self, folder: PartyFolder, plan: Plan) -> None:
        self._folder, self._plan = folder, plan
        policy = folder.policy
        self._floors = None if policy is None else policy.floors()
        self._check_declearn_folder(
            budget=(folder.path / "budget.toml").is_file()
            or bool(folder.journal.read(ledger_register(folder.name, _DATA)))
        )
        folder.check_member(plan)
        self._inputs = 0
        self._check_round()

    def _check_declearn_folder(self, *, budget: bool) -> None:
        if budget:
            raise MisuseError(
                "a privacy budget bears no exact sums, and declearn's are exact: noise is added by "
                "declearn's own DP-SGD, which this budget does not know",
                rule="declearn-folder",
            )

    def _check_round(self) -> None:
        if self._floors is not None:
            self._floors.check(self._plan, self._inputs)

    def enter(self, model: bytes, tag: bytes) -> None:
        """Count an input for a model before it is masked.

        model: SHA-256 of the broadcast model. tag: says which input it is.
        Rules: ``floors``, ``model-allowed``, ``fixed-data-plan``, ``inputs-per-model``,
        ``inputs-full``.
        """
        self._check_round()
        if self._floors is not None:
            self._floors.check_model(model)
        name = self._folder.name
        self._change(released_register(name, _DATA), self._released)
        floor = None if self._floors is None else self._floors.most_inputs_per_model
        limits = [most for most in (self._plan.max_inputs_per_model, floor) if most is not None]
        if limits:
            count = self._counted(tag[:TAG_SIZE], min(limits))
            self._change(inputs_register(name, _DATA, model), count)
        self._inputs += 1

    def _released(self, stored: bytes) -> bytes:
        last = unpack_released(stored)
        if last.fixed:
            raise ReleaseError(
                "sums of these data were given under a plan of fixed data; exact sums of training "
                "would go uncompared beside them",
                rule="fixed-data-plan",
            )
        return pack_released(replace(last, fixed=False))

    def _counted(self, tag: bytes, most: int) -> Callable[[bytes], bytes]:
        def count(stored: bytes) -> bytes:
            tags = unpack_tags(stored)
            if tag in tags:
                return stored
            if len(tags) >= most:
                raise MisuseError(
                    f"{len(tags)} inputs were sent for this model, the most that are allowed",
                    rule="inputs-per-model",
                )
            if not stored:
                self._change(models_register(self._folder.name, _DATA), _one_more)
            return pack_tags((*tags, tag))

        return count

    def _change(self, register: bytes, change: Callable[[bytes], bytes]) -> None:
        """Replace a register, durably, by what ``change`` makes of it."""
        journal = self._folder.journal
        while True:
            try:
                with journal_calls():
                    stored = journal.read(register)
                    journal.swap(register, stored, change(stored))
                return
            except MisuseError as error:
                # Another process of this site was faster; what it wrote counts as well.
                if error.rule != "journal-swap":
                    raise


def _one_more(stored: bytes) -> bytes:
    models = unpack_count(stored)
    if models >= MOST_MODELS:
        raise MisuseError(
            f"inputs for {models} models are counted, the most that a journal keeps",
            rule="inputs-full",
        )
    return pack_count(models + 1)


__all__ = ["Limits"]
