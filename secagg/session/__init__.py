"""Sessions: many rounds over one roster epoch, few messages, safe through crashes."""

from .events import Aborted, Agreement, Cold, Finished, SessionEvent, Wanted
from .messages import Slot
from .server import ServerSession
from .site import SiteSession
from .store import Store
from .transcript import Recorder, Transcript

__all__ = [
    "Aborted",
    "Agreement",
    "Cold",
    "Finished",
    "Recorder",
    "ServerSession",
    "SessionEvent",
    "SiteSession",
    "Slot",
    "Store",
    "Transcript",
    "Wanted",
]
