"""The tools for a cache that is not mounted.

All of them lock what they look at, so that a mounted cache is refused.  What only looks (check, dump, repair) reads a
copy or opens the metadata such that nothing of it changes; what makes metadata (restore, repair) makes a draft that
appears whole or not at all; writeback records a block as clean only after the origin has it durably.  So each can be
killed at any point and run again.
"""
