"""``defunet serve``."""

from components.serve.command import serve

COMMANDS = (serve,)
