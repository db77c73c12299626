"""Observers: are told of events, change nothing."""
