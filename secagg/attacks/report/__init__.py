"""Reports for people: self-contained HTML pages, and pages of the documentation."""

from .figures import svg
from .matrix import page
from .pages import FIGURES, claims, figure_name, figures, threat_model
from .simulation import simulation_page

__all__ = [
    "FIGURES",
    "claims",
    "figure_name",
    "figures",
    "page",
    "simulation_page",
    "svg",
    "threat_model",
]
