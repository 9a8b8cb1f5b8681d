"""Many points in one session: cases, equal points, executors, resuming, the leaderboard."""
