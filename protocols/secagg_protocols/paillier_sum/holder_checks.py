"""What a holder checks in a Paillier sum, one method a rule (ids and attacks: ``rules.py``)."""

from __future__ import annotations

from ..errors import EquivocationError, MisuseError, PeerError
from ..events import Step
from ..floors import Floors
from ..paillier import KeyShare, PrivateKey, PublicKey
from ..roster import SERVER_NAME
from ..wire import Frame
from . import messages
from .inputs import InputChecks


class HolderChecks(InputChecks):
    """The rules of a holder, and the state they look at."""

    floors: Floors | None
    share: KeyShare | PrivateKey
    _opened: bool

    def _check_floors(self) -> None:
        if self.floors is not None:
            self.floors.check(self.plan, self.round)

    def _check_own_share(self) -> None:
        key, place = messages.protocol_of(self.plan).key, self.index - self.plan.clients + 1
        kind = KeyShare if key.verification else PrivateKey
        # The digest covers all that the proofs do, so an answer under another one helps nobody.
        fits = isinstance(self.share, kind) and self.share.public.digest == key.digest
        if isinstance(self.share, KeyShare):
            fits = fits and self.share.index == place
        if not fits:
            raise MisuseError(
                f"{self.name} needs {_wanted(key, place)}, and was given {_given(self.share)}",
                rule="own-share",
            )

    def _check_step_order(self, frame: Frame) -> None:
        if self._opened or (frame.kind, frame.sender) in self._accepted:
            raise PeerError(
                "this message comes late or again",
                rule="step-order",
                sender=self._name(frame.sender),
            )

    def _check_equivocation(self, frame: Frame, digest: bytes) -> None:
        known = self._accepted.get((frame.kind, frame.sender))
        if known is not None and known != digest:
            raise EquivocationError(
                f"two different messages of {self._name(frame.sender)} for one step",
                rule="equivocation",
                sender=self._name(frame.sender),
                digests=(known, digest),
            )

    def _check_cohort(self, survivors: tuple[int, ...]) -> None:
        need = self.plan.min_survivors
        if len(survivors) < need:
            raise self._blame(
                "cohort", f"{len(survivors)} sites are to be opened, at least {need} are agreed"
            )

    def _check_given(self, survivors: tuple[int, ...]) -> None:
        if list(survivors) != self._product.sites:
            raise self._blame("given", "the sites to open are not those whose ciphertexts came")

    def _check_product(self, stated: bytes, product: bytes) -> None:
        if stated != product:
            raise self._blame("product", "the server multiplied other ciphertexts")

    def _check_dump_age(self) -> None:
        """The journal holds the opening that the dump has answered, or one that it was about to."""
        newest = self._newest()
        wanted = {int(Step.REVEAL)} if self._opened else {0, int(Step.REVEAL)}
        if newest not in wanted:
            raise MisuseError(
                "the journal knows of no opening, and this dump has answered one; one of them is "
                "an older copy",
                rule="dump-age",
            )

    def _blame(self, rule: str, text: str) -> PeerError:
        return PeerError(text, rule=rule, sender=SERVER_NAME)


def _wanted(key: PublicKey, place: int) -> str:
    """What a holder should bring, in public terms: ids of keys and numbers of shares."""
    what = f"share {place}" if key.verification else "all"
    return f"{what} of the private key of {key.digest.hex()[:16]}..."


def _given(share: object) -> str:
    if isinstance(share, KeyShare):
        return f"share {share.index} of {share.public.digest.hex()[:16]}..."
    if isinstance(share, PrivateKey):
        return f"all of {share.public.digest.hex()[:16]}..."
    return f"a {type(share).__name__}"
