"""PPO with a critic, as parts of an rlvr objective."""
