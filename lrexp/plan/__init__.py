"""The plan: who learns how fast."""
