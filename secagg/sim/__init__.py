"""Simulations: the real protocol in one process, on data that anybody can check."""
