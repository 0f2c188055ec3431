"""Measures: average precision, image quality, intervals, complexity, leakage."""
