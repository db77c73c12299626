"""The learner: policy forwards, micro-batches, the update, references."""
