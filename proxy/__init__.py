"""The gateway: HTTP in, a durable log out."""
