"""What a run found, as pictures, tables and sentences on one page."""
