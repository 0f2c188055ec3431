"""Training of the three stages: the loss of each, and one loop for all of them."""
