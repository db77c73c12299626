"""An off-policy objective: right answers of earlier steps are learned from again."""
