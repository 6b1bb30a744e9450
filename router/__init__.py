"""The router: from a prompt and an objective to a decision, and to an answer."""
