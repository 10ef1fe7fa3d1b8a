"""``defunet checkpoints``: what trainings have left, and its removal."""
