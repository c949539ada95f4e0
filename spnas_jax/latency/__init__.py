"""Everything in milliseconds: tables, devices, measurements."""
