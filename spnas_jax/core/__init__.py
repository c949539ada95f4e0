"""What all else stands on: errors, screen, processes, places."""
