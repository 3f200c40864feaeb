"""The same results sooner. Each part is held equal to the page of the book that it replaces."""
