"""OpenAI's wire format: requests in, answers out, and the pure functions between."""
