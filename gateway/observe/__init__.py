"""What an operator sees: one record of each request, and what is made of it."""
