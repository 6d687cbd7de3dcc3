"""Reports for people: self-contained HTML pages, and pages of the documentation."""

from .matrix import page
from .pages import claims, threat_model
from .simulation import simulation_page

__all__ = ["claims", "page", "simulation_page", "threat_model"]
