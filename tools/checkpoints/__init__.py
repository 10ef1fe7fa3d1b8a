"""``defunet checkpoints``: list and remove the checkpoints of training runs."""
