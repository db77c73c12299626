"""Rollout: engines, and the collecting of scored rollouts."""
