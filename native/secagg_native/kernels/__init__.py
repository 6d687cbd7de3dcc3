"""Compiled bodies. Importing one of them loads numba, so the wrappers above do that late."""
