"""Who may use the server, from where, and how much: middleware around the application."""
