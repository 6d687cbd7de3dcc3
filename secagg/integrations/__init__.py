"""Under federated-learning frameworks. Each adapter is imported by its own name when it is used."""
