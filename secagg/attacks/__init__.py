"""The threat laboratory: attacks, the parties they are run against, and what came of it."""
