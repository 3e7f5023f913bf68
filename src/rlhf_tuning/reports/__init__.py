"""Pages that people read: the report of a run and of its data, each one HTML file that needs no network."""
