"""The stages of the command line, a file each."""
