"""A site's ciphertexts on their way into a product, at the server and at every holder alike."""

from __future__ import annotations

from ..errors import MisuseError, PeerError
from ..paillier import knowledge
from ..paillier.keys import Words
from ..party import Party
from ..wire import Frame
from . import messages
from .product import Product, read_rows


class InputChecks(Party):
    """Whoever multiplies: the product, and the rules of what goes into it."""

    _product: Product

    def _on_input(self, frame: Frame) -> None:
        """Check one site's message, and multiply its ciphertexts in."""
        self._header(frame, messages.Encrypted)
        rows, proof = read_rows(self.plan, self._tail(frame, messages.input_size(self.plan)))
        self._check_ciphertext(frame.sender, rows)
        self._check_knowledge(frame.sender, rows, proof)
        self._check_repeated(frame.sender, rows)
        try:
            self._product.multiply(frame.sender, rows, threads=self.threads)
        except BaseException:
            # Interrupted half-way: what the product holds is of nobody knows whom.
            self._end(MisuseError("multiplying was interrupted", rule="interrupted"))
            raise

    def _check_ciphertext(self, site: int, rows: Words) -> None:
        messages.protocol_of(self.plan).key.check_rows(rows, sender=self._name(site))

    def _check_knowledge(self, site: int, rows: Words, proof: bytes) -> None:
        protocol = messages.protocol_of(self.plan)
        if protocol.knowledge_proofs:
            knowledge.check(
                protocol.key,
                rows,
                proof,
                context=knowledge.site_context(self.contexts.round, site),
                sender=self._name(site),
                threads=self.threads,
            )

    def _check_repeated(self, site: int, rows: Words) -> None:
        others = self._product.known(rows)
        if others:
            # Who copied whom cannot be told from here: the first to arrive may be the copy.
            suspects = {site, *(other for other in others if other >= 0)}
            raise PeerError(
                "a ciphertext was sent before; fresh ones never repeat",
                rule="repeated",
                sender=self._name(site),
                suspects=self._names(suspects),
            )
