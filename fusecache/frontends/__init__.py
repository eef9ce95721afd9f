"""Ways in which programs reach the image."""
