"""What survives: the durable record of the mapping, and the tools over it."""
