"""What is measured: average precision, image quality, its intervals, complexity, leakage."""
