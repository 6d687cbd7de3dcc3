"""The protocols of secagg."""
