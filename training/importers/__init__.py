"""Readers of what others logged, a module per kind of source; `howhard.training.importing` finds the right one."""
