"""A whole round of Flower's SecAgg+: run as it is, and composed of its functions.

Run: Flower's own ``SecAggPlusWorkflow`` and ``secaggplus_mod``, unmodified, in one process; only
the grid that carries messages between them is ours, and it carries objects instead of bytes.
Composed: every function that those two call, timed at the real size, times its calls. The calls
follow from the source and are counted in a real run, so that a wrong count is an error.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from . import peers, works
from .measure import Work

#: Functions of the mod and of the workflow, by the names under which they call them.
COUNTED: Final = (
    "generate_key_pairs",
    "private_key_to_bytes",
    "public_key_to_bytes",
    "bytes_to_private_key",
    "bytes_to_public_key",
    "generate_shared_key",
    "create_shares",
    "combine_shares",
    "share_keys_plaintext_concat",
    "share_keys_plaintext_separate",
    "encrypt",
    "decrypt",
    "parameters_to_ndarrays",
    "parameters_multiply",
    "quantize",
    "factor_combine",
    "pseudo_rand_gen",
    "parameters_addition",
    "parameters_subtraction",
    "parameters_mod",
    "ndarray_to_bytes",
    "bytes_to_ndarray",
    "factor_extract",
    "dequantize",
    "ndarrays_to_parameters",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A round: every two sites share a mask; ``dropped`` leave after they shared their keys."""

    clients: int
    dropped: int
    length: int
    threshold: int

    @property
    def survivors(self) -> int:
        """Sites in the sum."""
        return self.clients - self.dropped


@dataclass(frozen=True, slots=True)
class Part:
    """A function of Flower, how often a round calls it, and at which size it is timed."""

    function: str
    size: str
    calls: int
    work: Work


def calls(shape: Shape) -> dict[str, int]:
    """Calls of each function in one round, from the source of mod and workflow.

    Additions and subtractions are one number, since the ids of nodes decide between them.
    """
    n, s, m = shape.clients, shape.survivors, shape.dropped
    # Shared keys: each pair from both sides when shares are sealed, again when survivors mask,
    # and by the server for every neighbour of a site that left.
    agreed = n * (n - 1) + s * (n - 1) + m * (n - 1)
    # Masks: each survivor its own and one per neighbour; the server takes back one per survivor
    # and one per neighbour of each site that left.
    masks = s * n + s + m * (n - 1)
    return {
        "generate_key_pairs": 2 * n,
        "private_key_to_bytes": 2 * n,
        "public_key_to_bytes": 2 * n,
        "bytes_to_private_key": agreed,
        "bytes_to_public_key": agreed,
        "generate_shared_key": agreed,
        "create_shares": 2 * n,
        "combine_shares": n,
        "share_keys_plaintext_concat": n * (n - 1),
        "share_keys_plaintext_separate": s * (n - 1),
        "encrypt": n * (n - 1),
        "decrypt": s * (n - 1),
        "parameters_to_ndarrays": s,
        "parameters_multiply": s,
        "quantize": s,
        "factor_combine": s,
        "pseudo_rand_gen": masks,
        # Every mask is added or subtracted, and the server adds up what arrives.
        "parameters_addition or parameters_subtraction": masks + s - 1,
        "parameters_mod": s + 2,
        # A vector and its weight each.
        "ndarray_to_bytes": 2 * s,
        "bytes_to_ndarray": 2 * s,
        "factor_extract": 1,
        "dequantize": 1,
        "ndarrays_to_parameters": 1,
    }


def parts(shape: Shape) -> list[Part]:
    """Every function at the size that a round of ``shape`` gives it. Counts as :func:`calls`."""
    peers.quiet_flower()
    from flwr.common import (
        bytes_to_ndarray,
        ndarray_to_bytes,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )
    from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
    from flwr.common.secure_aggregation.crypto import shamir
    from flwr.common.secure_aggregation.crypto import symmetric_encryption as symmetric
    from flwr.common.secure_aggregation.quantization import dequantize, quantize
    from flwr.common.secure_aggregation.secaggplus_utils import (
        pseudo_rand_gen,
        share_keys_plaintext_concat,
        share_keys_plaintext_separate,
    )
    from flwr.supercore.primitives import asymmetric

    n, s, t, d = shape.clients, shape.survivors, shape.threshold, shape.length
    count = calls(shape)
    private, public = asymmetric.generate_key_pairs()
    _, other = asymmetric.generate_key_pairs()
    pem, public_pem = (
        asymmetric.private_key_to_bytes(private),
        asymmetric.public_key_to_bytes(public),
    )
    shared = symmetric.generate_shared_key(private, other)
    (seed,) = works.secrets(1)
    seed_shares = shamir.create_shares(seed, t, n)
    key_shares = shamir.create_shares(pem, t, n)
    plain = share_keys_plaintext_concat(1, 2, seed_shares[0], key_shares[0])
    sealed = symmetric.encrypt(shared, plain)
    x = [works.vector(d, peers.CLIP)]
    parameters = ndarrays_to_parameters(x)
    levels = quantize(x, peers.CLIP, peers.RANGE)
    wide = [works.noise(d).astype(np.int64)]
    mask = pseudo_rand_gen(seed, peers.MODULUS, [(d,)])
    packed = ndarray_to_bytes(wide[0])
    opened = dequantize(wide, peers.CLIP, peers.RANGE)
    shapes = [(), (d,)]
    vector, secret_size = f"{d:,} coordinates", "a 32-byte seed"
    key_size = f"a key of {len(pem)} bytes"

    rows: list[tuple[str, str, int, Work]] = [
        ("generate_key_pairs", "P-384", count["generate_key_pairs"], asymmetric.generate_key_pairs),
        (
            "private_key_to_bytes",
            "PEM",
            count["private_key_to_bytes"],
            lambda: asymmetric.private_key_to_bytes(private),
        ),
        (
            "public_key_to_bytes",
            "PEM",
            count["public_key_to_bytes"],
            lambda: asymmetric.public_key_to_bytes(public),
        ),
        (
            "bytes_to_private_key",
            "PEM",
            count["bytes_to_private_key"],
            lambda: asymmetric.bytes_to_private_key(pem),
        ),
        (
            "bytes_to_public_key",
            "PEM",
            count["bytes_to_public_key"],
            lambda: asymmetric.bytes_to_public_key(public_pem),
        ),
        (
            "generate_shared_key",
            "P-384, HKDF",
            count["generate_shared_key"],
            lambda: symmetric.generate_shared_key(private, other),
        ),
        (
            "create_shares",
            f"{secret_size}, {t} of {n}",
            n,
            lambda: shamir.create_shares(seed, t, n),
        ),
        (
            "create_shares",
            f"{key_size}, {t} of {n}",
            n,
            lambda: shamir.create_shares(pem, t, n),
        ),
        (
            "combine_shares",
            f"{secret_size}, {s} shares",
            s,
            lambda: shamir.combine_shares(seed_shares[:s]),
        ),
        (
            "combine_shares",
            f"{key_size}, {s} shares",
            shape.dropped,
            lambda: shamir.combine_shares(key_shares[:s]),
        ),
        (
            "share_keys_plaintext_concat",
            f"{len(plain)} bytes",
            count["share_keys_plaintext_concat"],
            lambda: share_keys_plaintext_concat(1, 2, seed_shares[0], key_shares[0]),
        ),
        (
            "share_keys_plaintext_separate",
            f"{len(plain)} bytes",
            count["share_keys_plaintext_separate"],
            lambda: share_keys_plaintext_separate(plain),
        ),
        (
            "encrypt",
            f"Fernet, {len(plain)} bytes",
            count["encrypt"],
            lambda: symmetric.encrypt(shared, plain),
        ),
        (
            "decrypt",
            f"Fernet, {len(sealed)} bytes",
            count["decrypt"],
            lambda: symmetric.decrypt(shared, sealed),
        ),
        ("parameters_to_ndarrays", vector, s, lambda: parameters_to_ndarrays(parameters)),
        ("parameters_multiply", vector, s, lambda: arithmetic.parameters_multiply(x, 1.0)),
        ("quantize", vector, s, lambda: quantize(x, peers.CLIP, peers.RANGE)),
        ("factor_combine", vector, s, lambda: arithmetic.factor_combine(1, levels)),
        (
            "pseudo_rand_gen",
            vector,
            count["pseudo_rand_gen"],
            lambda: pseudo_rand_gen(seed, peers.MODULUS, shapes),
        ),
        (
            "parameters_addition or parameters_subtraction",
            vector,
            count["parameters_addition or parameters_subtraction"],
            lambda: arithmetic.parameters_addition(wide, mask),
        ),
        (
            "parameters_mod",
            vector,
            count["parameters_mod"],
            lambda: arithmetic.parameters_mod(wide, peers.MODULUS),
        ),
        ("ndarray_to_bytes", vector, s, lambda: ndarray_to_bytes(wide[0])),
        ("bytes_to_ndarray", vector, s, lambda: bytes_to_ndarray(packed)),
        ("dequantize", vector, 1, lambda: dequantize(wide, peers.CLIP, peers.RANGE)),
        ("ndarrays_to_parameters", vector, 1, lambda: ndarrays_to_parameters(opened)),
    ]
    return [Part(name, size, number, peers.replacing(work)) for name, size, number, work in rows]


@dataclass(frozen=True, slots=True)
class Ran:
    """One real round. seconds: without the training that test data stands for, and without what
    our grid does.

    sent, received: payload bytes of one survivor, keys and values of records not counted.
    """

    seconds: float
    mean: Any
    sent: int
    received: int


class _Grid:
    """Carries messages between Flower's workflow and its mod, in one process."""

    def __init__(self, shape: Shape, app: Any) -> None:
        from flwr.app import Context, RecordDict

        self.shape = shape
        self.app = app
        self.contexts = {
            node: Context(1, node, {}, RecordDict(), {}) for node in range(1, shape.clients + 1)
        }
        #: Payload of the last node, which never leaves: from it and to it.
        self.sent = self.received = 0
        #: Seconds of copying and counting, which are no part of Flower's round.
        self.carrying = 0.0

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> list[Any]:
        """Deliver, and return the replies; the first nodes fall silent before their input."""
        from flwr.app import ConfigRecord, Message, RecordDict
        from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
        from flwr.common.secure_aggregation.secaggplus_constants import (
            RECORD_KEY_CONFIGS,
            Key,
            Stage,
        )

        replies = []
        for message in messages:
            begun = time.perf_counter()
            node = message.metadata.dst_node_id
            records = message.content.config_records[RECORD_KEY_CONFIGS]
            stage = records[Key.STAGE]
            if stage == Stage.COLLECT_MASKED_VECTORS and node <= self.shape.dropped:
                continue
            # The workflow gives all nodes the same record, and the mod takes entries out of it.
            content = RecordDict(
                {
                    name: ConfigRecord(dict(record)) if name == RECORD_KEY_CONFIGS else record
                    for name, record in message.content.items()
                }
            )
            copied = Message(
                content,
                dst_node_id=node,
                message_type=message.metadata.message_type,
                group_id=message.metadata.group_id,
            )
            if node == self.shape.clients:
                self.received += _payload(records)
            self.carrying += time.perf_counter() - begun
            reply = secaggplus_mod(copied, self.contexts[node], self.app)
            if node == self.shape.clients:
                self.sent += _payload(reply.content.config_records[RECORD_KEY_CONFIGS])
            replies.append(reply)
        return replies


def _payload(record: Mapping[str, Any]) -> int:
    """Bytes of the values of a record; a number is 8 bytes."""
    total = 0
    for value in record.values():
        for item in value if isinstance(value, list) else [value]:
            total += len(item) if isinstance(item, (bytes, str)) else 8
    return total


def run(shape: Shape) -> Ran:
    """One round of Flower's workflow and mod. Raises ValueError where its mean is wrong."""
    peers.quiet_flower()
    import flwr.compat.common.recorddict_compat as compat
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.common import (
        Code,
        FitIns,
        FitRes,
        Status,
        ndarrays_to_parameters,
        parameters_to_ndarrays,
    )
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.strategy import FedAvg
    from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
    from flwr.server.workflow.constant import Key as WorkflowKey
    from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
    from flwr.supercore.task_identity import TaskIdentity

    # Messages ask who sends them; outside a deployment nobody has said.
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    n = shape.clients
    base = works.vector(shape.length, peers.CLIP / 2)

    def update(node: int) -> Any:
        # Different vectors at different sites, all within the clip.
        return base * np.float32(node / n)

    training = 0.0

    def app(message: Any, context: Any) -> Any:
        nonlocal training
        start = time.perf_counter()
        parameters = ndarrays_to_parameters([update(message.metadata.dst_node_id)])
        result = FitRes(Status(Code.OK, ""), parameters, 1000, {})
        reply = Message(compat.fitres_to_recorddict(result, keep_input=True), reply_to=message)
        training += time.perf_counter() - start
        return reply

    class Node:
        def __init__(self, node_id: int) -> None:
            self.node_id = node_id

    class Strategy(FedAvg):  # type: ignore[misc]  # the peer is not there when types are checked
        found: Any = None

        def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
            return [(Node(node), FitIns(parameters, {})) for node in range(1, n + 1)]

        def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
            self.found = results[0][1].parameters
            return self.found, {}

    strategy = Strategy()
    context = LegacyContext(Context(1, 1, {}, RecordDict(), {}), strategy=strategy)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    start_model = ndarrays_to_parameters([np.zeros(1, np.float32)])
    context.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        start_model, True
    )
    workflow = SecAggPlusWorkflow(n, shape.threshold, max_weight=1000.0)
    grid = _Grid(shape, app)
    start = time.perf_counter()
    workflow(grid, context)
    seconds = time.perf_counter() - start - training - grid.carrying
    if strategy.found is None:
        raise ValueError("the peer's round came to no result")
    mean = parameters_to_ndarrays(strategy.found)[0]
    weights = np.arange(shape.dropped + 1, n + 1) / n
    if not np.allclose(mean, base.astype(np.float64) * weights.mean(), atol=1e-4):
        raise ValueError("the peer's mean is wrong")
    return Ran(seconds, mean, grid.sent, grid.received)


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count the calls of mod and workflow by name; the functions themselves stay as they are."""
    peers.quiet_flower()
    from flwr.client.mod.secure_aggregation import secaggplus_mod as mod
    from flwr.server.workflow.secure_aggregation import secaggplus_workflow as workflow

    seen: Counter[str] = Counter()
    replaced: list[tuple[Any, str, Any]] = []

    def wrapped(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen[name] += 1
            return function(*args, **options)

        return call

    try:
        for module in (_module(mod), workflow):
            for name in COUNTED:
                function = getattr(module, name, None)
                if function is not None:
                    replaced.append((module, name, function))
                    setattr(module, name, wrapped(name, function))
        yield seen
    finally:
        for module, name, function in replaced:
            setattr(module, name, function)


def _module(found: Any) -> Any:
    """The module of the mod: its package exports a function of the same name."""
    import sys

    return sys.modules[found.__module__] if callable(found) else found


def check_calls(shape: Shape) -> dict[str, int]:
    """Calls counted in a real run. Raises ValueError where they differ from :func:`calls`."""
    with counting() as seen:
        run(shape)
    found = {name: seen[name] for name in COUNTED}
    both = found.pop("parameters_addition") + found.pop("parameters_subtraction")
    found["parameters_addition or parameters_subtraction"] = both
    expected = calls(shape)
    wrong = sorted(name for name in expected if found[name] != expected[name])
    if wrong or set(found) != set(expected):
        raise ValueError(f"Flower calls other functions, or others as often: {', '.join(wrong)}")
    return found


__all__ = ["COUNTED", "Part", "Ran", "Shape", "calls", "check_calls", "counting", "parts", "run"]
