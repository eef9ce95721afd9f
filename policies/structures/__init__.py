"""What policies are made of.  Sizes are fixed when a structure is made; nothing here allocates an object per block."""
