"""Review: give predicted masks to a labelling tool, and take corrected ones into a cohort."""
