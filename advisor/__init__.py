"""Pure judgement: what a vLLM server should hold, what it holds, and what may go wrong.

Nothing here reads a file, a clock or a socket: time and readings are arguments.
"""
