"""Questions about what is in a model database, answered without changing it; a module for each."""
