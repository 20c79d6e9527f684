"""What the gateway and the workers have in common: messages, parameters, model files."""
