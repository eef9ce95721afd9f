"""Recorded block traces, replayed through the same policies that mounts use, to compare policies and sizes."""
