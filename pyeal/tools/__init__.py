"""What stands on top of the core: they read and draw, the core never imports them."""
