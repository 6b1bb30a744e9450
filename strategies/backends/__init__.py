"""Where texts come from. `local` needs the extra `local` (PyTorch), `vllm` reaches a server over HTTP; import them by
name, or let howhard.strategies.specs open them.
"""
