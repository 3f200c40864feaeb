"""Files and the terminal: what is written durably, read within bounds, and shown escaped."""
