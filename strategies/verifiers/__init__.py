"""What scores candidates at run time, without a reference answer: one kind per file."""
