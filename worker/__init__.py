"""A worker: one blocking process that runs one sequence at a time on its engine."""
