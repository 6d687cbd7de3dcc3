"""What a site remembers across rounds, sessions, epochs and keys: registers of its journal.

A register belongs to a site's *name* and to the name that the site gave its data, never to a
key, a plan or a roster: whatever a server can start anew must not start a count anew.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from .errors import MisuseError
from .keys import digest_of
from .plan import Plan

#: Bytes by which a register tells round contexts apart. A server that chooses session, round
#: and parameters needs about 2^64 hashes for two rounds that are counted as one.
TAG_SIZE: Final = 16
#: Most models that a site answers over one data set, since each leaves a register for ever.
MOST_MODELS: Final = 1 << 16
_MOST_DATA: Final = 256
_COUNT_SIZE: Final = 4


class Released(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a site has let out over some data, under all plans together.

    fixed: whether the plans were of fixed data; ``None`` before the first input.
    names: sites of all their rosters. threshold: the smallest share threshold of theirs.
    colluding, block: the most colluding sites, and the largest ``release_block``.
    sites: the last set that this site answered for, by name; ``None`` before the first.
    ended: the rule that ended the analysis, or "".
    """

    fixed: bool | None
    names: frozenset[str]
    threshold: int
    colluding: int
    block: int
    sites: frozenset[str] | None
    ended: str

    def under(self, plan: Plan) -> Released:
        """The same with an input sent under ``plan``, which is of fixed data."""
        threshold = plan.protocol.share_threshold
        return replace(
            self,
            fixed=True,
            names=self.names.union(plan.roster.names),
            threshold=min(self.threshold or threshold, threshold),
            colluding=max(self.colluding, plan.colluding),
            block=max(self.block, plan.release_block),
        )


#: Of data that no input was made from.
NOTHING_RELEASED: Final = Released(None, frozenset(), 0, 0, 0, None, "")


def data_name(data: object) -> str:
    """The name of a site's data as it may stand in a register; :class:`MisuseError` otherwise."""
    if not isinstance(data, str) or len(data) > _MOST_DATA or not data.isprintable():
        raise MisuseError(
            f"data is a name: printable text of at most {_MOST_DATA} characters", rule="arguments"
        )
    return data


def inputs_register(site: str, data: str, model_hash: bytes) -> bytes:
    """Where a site counts the inputs that it sent for one model."""
    return digest_of(b"secagg inputs register v1", site.encode(), data.encode(), model_hash)


def models_register(site: str, data: str) -> bytes:
    """Where a site counts the models that have an inputs register."""
    return digest_of(b"secagg models register v1", site.encode(), data.encode())


def released_register(site: str, data: str) -> bytes:
    """Where a site keeps what it has let out over some data."""
    return digest_of(b"secagg released register v1", site.encode(), data.encode())


def ledger_register(site: str, data: str) -> bytes:
    """Where a site's privacy ledger keeps what was spent over some data."""
    return digest_of(b"secagg ledger register v1", site.encode(), data.encode())


def pack_tags(tags: tuple[bytes, ...]) -> bytes:
    """Tags of the rounds in which an input was sent, as a register holds them."""
    return b"".join(tags)


def unpack_tags(stored: bytes) -> tuple[bytes, ...]:
    """Inverse of :func:`pack_tags`."""
    if len(stored) % TAG_SIZE:
        raise _foreign()
    return tuple(stored[at : at + TAG_SIZE] for at in range(0, len(stored), TAG_SIZE))


def pack_count(count: int) -> bytes:
    """A number of models, as a register holds it."""
    return count.to_bytes(_COUNT_SIZE, "little")


def unpack_count(stored: bytes) -> int:
    """Inverse of :func:`pack_count`; 0 where nothing is stored."""
    if len(stored) not in {0, _COUNT_SIZE}:
        raise _foreign()
    return int.from_bytes(stored, "little")


def pack_released(released: Released) -> bytes:
    """The content of a register: msgpack of the fields in order, names sorted."""
    fields = msgspec.structs.astuple(released)
    return msgspec.msgpack.encode([sorted(f) if isinstance(f, frozenset) else f for f in fields])


def unpack_released(stored: bytes) -> Released:
    """Inverse of :func:`pack_released`; nothing released where nothing is stored."""
    if not stored:
        return NOTHING_RELEASED
    try:
        return msgspec.msgpack.decode(stored, type=Released)
    except msgspec.MsgspecError:
        raise _foreign() from None


def _foreign() -> MisuseError:
    return MisuseError("a register of the journal is not one of this version", rule="journal-file")
