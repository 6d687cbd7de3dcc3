"""What a round is bound to: the model, and everything else that sites were told."""

from __future__ import annotations

from secagg_protocols.keys import digest_of
from secagg_protocols.party import checked_model
from secagg_protocols.plan import Plan
from secagg_protocols.wire import Buffer


def bound(plan: Plan, model: Buffer, settings: bytes) -> tuple[bytes, bytes]:
    """(model, parameters) of a round over ``model`` with ``settings``.

    Inputs are counted by the model, so that a server which changes a setting does not get one more
    of them; the settings are bound as the round's parameters. An adaptive clip takes their place:
    then the settings are part of what stands for the model. :class:`MisuseError` (``model``) for a
    model that is no bytes.
    """
    model = bytes(checked_model(model))
    if not settings:
        return model, b""
    digest = digest_of(b"secagg settings v1", settings)
    if plan.pipeline.adaptive is None:
        return model, digest
    return digest_of(b"secagg model with settings v1", model, digest), b""


__all__ = ["bound"]
