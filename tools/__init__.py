"""What makes the project's environment, and what a person starts beside it."""
