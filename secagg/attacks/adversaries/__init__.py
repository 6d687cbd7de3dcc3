"""Active adversaries: they know messages and the keys of the role they play, and no party."""
