"""Turns a Hugging Face model folder into one file that the engine serves."""
