"""Plan: everything the parties agree on before they start, and the only place for security
parameters. A plan that would break its promise cannot be built."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

import msgspec
import numpy as np

from .choose import MaskedSum, graph_reasons, recommended, release_reasons
from .errors import MisuseError, PlanError
from .keys import digest_of
from .paillier import PublicKey
from .plan_fields import claims_of, require_integer
from .plan_masked import MaskedRules
from .plan_paillier import PaillierRules, PaillierSum, paillier_reasons
from .roster import Roster
from .stages import Pipeline, Stage
from .stages.pipeline import MOST_WEIGHT, STAGES

Threat = Literal["semi-honest", "malicious-server"]
THREATS: Final = ("semi-honest", "malicious-server")
#: X25519, HKDF-SHA256, AES-128-CTR masks, XChaCha20-Poly1305 shares, Ed25519 signatures.
SUITE: Final = "x25519-aes128ctr-ed25519-v1"
#: Paillier with short randomness, the same signatures.
PAILLIER_SUITE: Final = "paillier-djn-ed25519-v1"
#: Suites of each protocol that a plan can name.
SUITES: Final = {MaskedSum: (SUITE,), PaillierSum: (PAILLIER_SUITE,)}
MOST_LENGTH: Final = 1 << 32
#: Fewest and most statistical security bits a round of a sparse graph may have.
SECURITY_BITS: Final = (20, 128)
#: Most masked inputs for one model that a plan may allow: a site keeps 16 bytes of each.
MOST_INPUTS: Final = 1 << 16
_PLAN_LABEL: Final = b"secagg plan v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan(MaskedRules, PaillierRules):
    """One frozen agreement. Every broken rule is a :class:`PlanError` that names it.

    roster: sites, server and holders with their pinned keys.
    length: coordinates of a site's vector.
    stages: the local pipeline, first to last.
    protocol: :class:`MaskedSum` or :class:`PaillierSum`.
    threat: ``"semi-honest"`` or ``"malicious-server"``.
    colluding: sites that may pool what they know with the server.
    max_dropouts: sites that may be missing from the sum.
    min_honest: honest sites that are always in the sum.
    sites_receive: whether sites learn the sum (then every site is a potential insider).
    suite: names the cryptographic primitives.
    security_bits: statistical security per round of a sparse graph.
    max_weight: largest integer weight of a site; above 1 the weight is summed too.
    fixed_data: whether every round sums functions of the same data (no retraining on new data).
        Survivor sets must then be nested, and each step down leaves out at least
        ``release_block`` sites; a site ends the analysis otherwise. A site refuses the plan
        where its data were summed under another kind, or where the sums of another plan's
        roster would go uncompared.
    max_inputs_per_model: masked inputs that a site sends for one broadcast model, retries
        included; ``None`` states nothing. It is what training relies on, beside noise.
    bits: bits a coordinate on the wire, or ``None`` for the fewest that cannot wrap.
    privacy: plain claims for the layer above, as sorted (name, value) pairs.
    """

    roster: Roster
    length: int
    stages: tuple[Stage, ...]
    protocol: MaskedSum | PaillierSum
    threat: Threat
    colluding: int
    max_dropouts: int
    min_honest: int
    sites_receive: bool
    suite: str
    security_bits: int
    max_weight: int = 1
    fixed_data: bool = False
    max_inputs_per_model: int | None = None
    bits: int | None = None
    privacy: tuple[tuple[str, str | int | float], ...] | None = None
    #: SHA-256 of the canonical bytes: parties with different plans cannot talk.
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._check_field_types()
        object.__setattr__(self, "stages", tuple(self.stages))
        self._check_stage_kinds()
        self._check_length()
        self._check_weight()
        self._check_inputs_limit()
        self._check_threat()
        self._check_suite()
        self._check_security_bits()
        self._check_honest_survivors()
        self._check_insiders()
        self._check_graph_shape()
        self._check_fixed_data_graph()
        self._check_share_threshold()
        self._check_one_survivor_set()
        self._check_sparse_threat()
        self._check_sparse_security()
        self._check_paillier_fields()
        self._check_key_holders()
        self._check_holder_threshold()
        self._check_one_opening()
        self._check_knowledge_proofs()
        self._check_modulus_proof()
        self._check_fixed_data_holders()
        self._check_privacy_noise()
        self._check_noise_shares()
        self._check_noise_central()
        self._check_modulus()
        encoded = msgspec.msgpack.encode(self.canonical())
        object.__setattr__(self, "digest", digest_of(_PLAN_LABEL, encoded))

    # Rules, in the order in which they are applied. Ids: masked_sum/rules.py.

    def _check_field_types(self) -> None:
        for name in ("length", "colluding", "max_dropouts", "min_honest", "security_bits"):
            require_integer(getattr(self, name), name)
        require_integer(self.max_weight, "max_weight")
        for name in ("sites_receive", "fixed_data"):
            if not isinstance(getattr(self, name), bool):
                raise PlanError("true or false", rule="field-types", field=name)
        if not isinstance(self.stages, (tuple, list)):
            raise PlanError("a tuple of stages", rule="field-types", field="stages")
        for name in ("threat", "suite"):
            if type(getattr(self, name)) is not str:
                raise PlanError("text", rule="field-types", field=name)
        if not isinstance(self.roster, Roster):
            raise PlanError("a Roster", rule="field-types", field="roster")
        if type(self.protocol) not in SUITES:
            raise PlanError("a MaskedSum or PaillierSum", rule="field-types", field="protocol")
        if isinstance(self.protocol, MaskedSum):
            require_integer(self.protocol.share_threshold, "protocol.share_threshold")
            require_integer(self.protocol.neighbours, "protocol.neighbours")
        for name in ("bits", "max_inputs_per_model"):
            if getattr(self, name) is not None:
                require_integer(getattr(self, name), name)
        if self.privacy is not None:
            object.__setattr__(self, "privacy", claims_of(self.privacy))

    def _check_stage_kinds(self) -> None:
        for stage in self.stages:
            if STAGES.get(type(stage).__name__) is not type(stage):
                raise PlanError(
                    f"{type(stage).__name__} is not a stage that a plan can name; known are "
                    + ", ".join(sorted(STAGES)),
                    rule="stage-kinds",
                    field="stages",
                )

    def _check_length(self) -> None:
        if not 1 <= self.length <= MOST_LENGTH:
            raise PlanError(f"from 1 to {MOST_LENGTH} coordinates", rule="length", field="length")

    def _check_weight(self) -> None:
        if not 1 <= self.max_weight <= MOST_WEIGHT:
            raise PlanError(f"from 1 to {MOST_WEIGHT}", rule="weight", field="max_weight")

    def _check_inputs_limit(self) -> None:
        most = self.max_inputs_per_model
        if most is not None and not 1 <= most <= MOST_INPUTS:
            raise PlanError(
                f"from 1 to {MOST_INPUTS}, or nothing",
                rule="inputs-limit",
                field="max_inputs_per_model",
            )

    def _check_threat(self) -> None:
        if self.threat not in THREATS:
            raise PlanError(f"one of {', '.join(THREATS)}", rule="threat", field="threat")

    def _check_suite(self) -> None:
        known = SUITES[type(self.protocol)]
        if self.suite not in known:
            raise PlanError(f"one of {', '.join(known)}", rule="suite", field="suite")

    def _check_security_bits(self) -> None:
        low, high = SECURITY_BITS
        if not low <= self.security_bits <= high:
            raise PlanError(f"from {low} to {high}", rule="security-bits", field="security_bits")

    def _check_honest_survivors(self) -> None:
        for name in ("colluding", "max_dropouts"):
            if getattr(self, name) < 0:
                raise PlanError("not negative", rule="honest-survivors", field=name)
        if self.min_honest < 2:
            raise PlanError(
                "at least 2: a sum with one honest site is that site's vector",
                rule="honest-survivors",
                field="min_honest",
            )
        left = self.min_survivors - self.colluding
        if left < self.min_honest:
            raise PlanError(
                f"{self.clients} sites less {self.max_dropouts} dropouts less {self.colluding} "
                f"colluding leave {left} honest ones, fewer than {self.min_honest}",
                rule="honest-survivors",
                field="min_honest",
            )

    def _check_insiders(self) -> None:
        if self.sites_receive and self.colluding < 1:
            raise PlanError(
                "at least 1 where sites receive the sum: each of them can subtract its own vector",
                rule="insiders",
                field="colluding",
            )

    def _check_privacy_noise(self) -> None:
        claims = {name for name, _ in self.privacy or ()}
        if claims & {"epsilon", "delta"} and self.pipeline.noise is None:
            raise PlanError(
                "the plan claims epsilon or delta and has no noise",
                rule="privacy-noise",
                field="privacy",
            )

    def _check_noise_shares(self) -> None:
        noise, honest = self.pipeline.noise, self.min_survivors - self.colluding
        if noise is not None and noise.shares > honest:
            raise PlanError(
                f"{noise.shares} sites make up the noise and only {honest} honest ones are sure to "
                "be in a sum",
                rule="noise-shares",
                field="stages",
            )

    def _check_noise_central(self) -> None:
        if self.central_noise and self.signed:
            raise PlanError(
                "noise that the server adds needs a server that adds it: the semi-honest threat",
                rule="noise-central",
                field="threat",
            )

    def _check_modulus(self) -> None:
        need = self.bits_needed
        if need > 64:
            raise PlanError(
                f"the sum needs {need} bits a coordinate, at most 64 exist; lower the levels, "
                "the range or max_weight",
                rule="modulus",
                field="stages",
            )
        if self.bits is not None and not need <= self.bits <= 64:
            raise PlanError(
                f"{self.bits} bits a coordinate, the sum needs {need} (at most 64)",
                rule="modulus",
                field="bits",
            )

    # What follows from the fields.

    @property
    def clients(self) -> int:
        """Sites in the roster."""
        return len(self.roster.sites)

    @property
    def min_survivors(self) -> int:
        """Fewest sites a sum may have."""
        return self.clients - self.max_dropouts

    @property
    def release_block(self) -> int:
        """Sites by which two sums of fixed data differ at least, where they differ."""
        return self.min_honest + self.colluding

    @property
    def signed(self) -> bool:
        """Whether messages carry signatures and survivors need consent."""
        return self.threat == "malicious-server"

    @property
    def central_noise(self) -> bool:
        """Whether the server adds the noise."""
        return self.pipeline.noise is not None and self.pipeline.noise.central

    @property
    def noise_variance(self) -> float:
        """Least variance of the noise that a site may count on in each coordinate of a sum.

        In the vector's units squared, from the honest sites that are sure to be in the sum, at
        the lowest clip where one adapts; 0 where only the server adds noise.
        """
        pipeline = self.pipeline
        if pipeline.noise is None or pipeline.noise.central:
            return 0.0
        clip = pipeline.adaptive
        part = 1.0 if clip is None else clip.lowest / clip.clip
        return pipeline.noise_variance(self.min_survivors - self.colluding) * part**2

    @property
    def pipeline(self) -> Pipeline:
        """The stages composed for this length and weight."""
        return _pipeline(self.stages, self.length, self.max_weight)

    @property
    def bits_needed(self) -> int:
        """Fewest bits a coordinate with which no sum of honest inputs can wrap; with noise, but
        for a probability of ``2^-wrap_bits``."""
        return self.pipeline.bits_needed(self.clients)

    @property
    def wire_bits(self) -> int:
        """Bits a coordinate on the wire: ring elements are integers modulo 2^wire_bits."""
        return self.bits if self.bits is not None else self.bits_needed

    @property
    def lane(self) -> np.dtype[Any]:
        """Smallest of uint16, uint32, uint64 that holds a ring element."""
        return np.dtype(
            np.uint16 if self.wire_bits <= 16 else f"u{4 if self.wire_bits <= 32 else 8}"
        )

    @property
    def ring_length(self) -> int:
        """Coordinates that travel: the vector and its extras."""
        return self.pipeline.total_length

    def canonical(self) -> list[Any]:
        """Plain values whose msgpack form is the canonical encoding."""
        stages = [
            [type(stage).__name__] + [getattr(stage, f.name) for f in fields(stage)]  # type: ignore[arg-type]
            for stage in self.stages
        ]
        rest = [getattr(self, f.name) for f in fields(self) if f.name not in _SPECIAL]
        privacy = None if self.privacy is None else [list(pair) for pair in self.privacy]
        protocol = canonical_protocol(self.protocol)
        return ["plan", 1, self.roster.canonical(), stages, protocol, privacy, *rest]

    @classmethod
    def recommend(
        cls,
        roster: Roster,
        *,
        length: int,
        stages: tuple[Stage, ...],
        threat: Threat,
        colluding: int,
        max_dropouts: int,
        sites_receive: bool = True,
        min_honest: int = 3,
        neighbours: int | None = None,
        security_bits: int = 40,
        max_weight: int = 1,
        fixed_data: bool = False,
        max_inputs_per_model: int | None = None,
        bits: int | None = None,
        key: PublicKey | None = None,
        colluding_holders: int | None = None,
    ) -> Plan:
        """A plan whose share threshold and graph are chosen; :meth:`explain` says why.

        With a Paillier ``key`` the plan is of a :class:`PaillierSum` under it, opened by the
        roster's holders, ``colluding_holders`` (0) of which may work with the server.

        ``neighbours=None`` takes the sparse graph of the exact solver where the threat allows
        it and the solver finds one, the complete graph otherwise and for fixed data.
        ``max_inputs_per_model=None`` takes 2, one retry; for fixed data it sets no limit, since
        there a site compares the sums themselves.
        """
        if not isinstance(roster, Roster):
            raise PlanError("a Roster", rule="field-types", field="roster")
        if not isinstance(stages, (tuple, list)):
            raise PlanError("a tuple of stages", rule="field-types", field="stages")
        for name, value in (
            ("colluding", colluding),
            ("max_dropouts", max_dropouts),
            ("security_bits", security_bits),
            ("neighbours", 0 if neighbours is None else neighbours),
        ):
            require_integer(value, name)
        protocol: MaskedSum | PaillierSum
        if key is not None:
            if neighbours is not None:
                raise PlanError(
                    "a Paillier sum has no graph", rule="graph-shape", field="neighbours"
                )
            colluding_holders = 0 if colluding_holders is None else colluding_holders
            protocol = PaillierSum(key=key, colluding_holders=colluding_holders)
        elif colluding_holders is not None:
            raise PlanError(
                "colluding_holders are those of a Paillier sum, which needs its public key",
                rule="paillier-fields",
                field="key",
            )
        else:
            protocol = recommended(
                len(roster.sites),
                threat,
                colluding,
                max_dropouts,
                neighbours,
                security_bits,
                fixed_data,
            )
        if max_inputs_per_model is None and not fixed_data:
            max_inputs_per_model = 2
        return cls(
            roster=roster,
            length=length,
            stages=tuple(stages),
            protocol=protocol,
            threat=threat,
            colluding=colluding,
            max_dropouts=max_dropouts,
            min_honest=min_honest,
            sites_receive=sites_receive,
            suite=SUITES[type(protocol)][0],
            security_bits=security_bits,
            max_weight=max_weight,
            fixed_data=fixed_data,
            max_inputs_per_model=max_inputs_per_model,
            bits=bits,
        )

    def explain(self, *, rounds: int = 1) -> list[str]:
        """Why each number is what it is, one sentence each."""
        n, c, survive = self.clients, self.colluding, self.min_survivors
        lines = [
            f"At most {self.max_dropouts} of {n} sites may be missing, so a sum has at least "
            f"{survive} sites; less {c} colluding, at least {survive - c} of them are honest "
            f"(min_honest {self.min_honest}).",
        ]
        if isinstance(self.protocol, PaillierSum):
            lines += paillier_reasons(self.protocol, signed=self.signed)
        else:
            found = None if self.complete else self.graph_security()
            lines += graph_reasons(n, c, survive, self.protocol, found, rounds)
        noise = self.pipeline.noise
        lines.append(
            f"{self.wire_bits} bits a coordinate: the sum of {n} sites "
            + ("cannot wrap" if noise is None else f"wraps with probability 2^-{noise.wrap_bits}")
            + f" (it needs {self.bits_needed})."
        )
        if self.signed and isinstance(self.protocol, MaskedSum):
            lines.append("Every message is signed and survivors are confirmed before any reveal.")
        elif self.signed:
            lines.append("Every message is signed, and holders open what the sites signed.")
        else:
            lines.append("The server is trusted to follow the protocol; nothing is signed.")
        return lines + release_reasons(
            self.max_inputs_per_model,
            fixed_data=self.fixed_data,
            min_honest=self.min_honest,
            colluding=c,
        )


def masked_of(plan: Plan) -> MaskedSum:
    """The protocol of a plan that must be of a masked sum; :class:`MisuseError` otherwise."""
    if not isinstance(plan.protocol, MaskedSum):
        raise MisuseError(
            f"this needs the plan of a MaskedSum, not of a {type(plan.protocol).__name__}",
            rule="protocol",
        )
    return plan.protocol


def canonical_protocol(protocol: MaskedSum | PaillierSum) -> list[Any]:
    """Name and values of a plan's protocol, as its digest is taken of."""
    if isinstance(protocol, MaskedSum):
        return ["MaskedSum", protocol.share_threshold, protocol.neighbours]
    return ["PaillierSum", protocol.key.canonical(), protocol.colluding_holders]


_SPECIAL: Final = frozenset({"roster", "stages", "protocol", "privacy", "digest"})


@functools.lru_cache(maxsize=64)
def _pipeline(stages: tuple[Stage, ...], length: int, max_weight: int) -> Pipeline:
    return Pipeline(stages, length, max_weight)


__all__ = ["PAILLIER_SUITE", "SUITE", "MaskedSum", "PaillierSum", "Plan", "Threat"]
