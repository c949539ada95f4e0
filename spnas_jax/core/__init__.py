"""What everything else stands on: errors, screen, processes, places."""
