"""What goes on before a camera: who is who from frame to frame, and what the rules make of it."""
