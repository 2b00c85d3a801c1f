"""How good a policy is: episodes with fixed seeds, side by side, and their videos."""
