"""Tasks: where problems and golds come from, and how they become prompts."""
