"""What leaves a model database, and what enters it."""
