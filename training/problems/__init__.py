"""Problems: generated families, prompt files, and what they have in common."""
