"""Boards: rows of measured and of reported values, and how they are shown; see docs/leaderboards.md."""
