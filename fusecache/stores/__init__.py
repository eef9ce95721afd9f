"""Where bytes live: one small asynchronous interface, and the stores behind it."""
