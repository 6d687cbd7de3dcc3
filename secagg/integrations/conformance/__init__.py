"""A conformance kit: whoever adapts a framework subclasses :class:`Conformance` in a test module
and says how a schedule is run. ``docs/integrations/adapting.md`` is its manual."""

from .adapter import Adapter, Outcome
from .case import Case, Node, TrainingFailed, Update
from .faults import ALL_FEATURES, Fault, Kind
from .laws import Broken, Played, check
from .process import in_child
from .suite import Conformance, play
from .wire import Delivery, ServerDied, Wire

__all__ = [
    "ALL_FEATURES",
    "Adapter",
    "Broken",
    "Case",
    "Conformance",
    "Delivery",
    "Fault",
    "Kind",
    "Node",
    "Outcome",
    "Played",
    "ServerDied",
    "TrainingFailed",
    "Update",
    "Wire",
    "check",
    "in_child",
    "play",
]
