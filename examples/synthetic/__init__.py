"""A synthetic ad ecosystem whose true probabilities are known, so that a model's distance to the best one is known."""
