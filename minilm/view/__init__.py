"""Pages to look at: a run, a text inside the model."""
