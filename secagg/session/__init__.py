"""Sessions: many rounds over one roster epoch, few messages, safe through crashes."""

from .events import Aborted, Agreement, Cold, Finished, Opened, SessionEvent, Wanted
from .holder import HolderSession
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
    "HolderSession",
    "Opened",
    "Recorder",
    "ServerSession",
    "SessionEvent",
    "SiteSession",
    "Slot",
    "Store",
    "Transcript",
    "Wanted",
]
