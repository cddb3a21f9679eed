"""What request and response bodies look like, one module for each blueprint."""
