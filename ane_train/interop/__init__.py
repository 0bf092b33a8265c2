"""Weights in and out: the formats of other programs, read and written by the parameter table."""
