"""Specs: what a run does, as checked data. Imports no torch."""
