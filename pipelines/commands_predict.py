"""``defunet predict``."""

from components.predict.command import predict

COMMANDS = (predict,)
