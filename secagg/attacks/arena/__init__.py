"""Parties for the laboratory: honest ones with every message in reach, and weakened ones."""
