"""Review: export predicted masks for a labelling tool, and import corrected masks into a cohort."""
