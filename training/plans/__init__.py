"""Plans, offline: made of a samples log, replayed on it, and compared with everything they must beat."""
