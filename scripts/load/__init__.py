"""Load tests for servers with an OpenAI-style API; `locustfile.py` is what locust runs."""
