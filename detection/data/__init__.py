"""Labelled sets and sets of pairs: readers, writers and darkening."""
