"""Labelled sets and sets of pairs, read, darkened and written."""
