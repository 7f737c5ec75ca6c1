"""What would have come of a run's stored updates: other strategies, without some agents, who contributed."""
