"""What each attack is run against, with its controls, and the judgement: they know the truth."""
