"""A Flower app: a logistic regression over hospitals."""
