"""Training of the three stages: what each optimises, and one loop for all of them."""
